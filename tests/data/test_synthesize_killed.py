"""Images of a process that is killed: whenever it happens, what was finished stays, and the rest comes out the same.

The process is a fork with a loaded pipeline, so that many moments can be tried. It kills itself with SIGKILL in the
middle of its n-th call to the file system, for every n that it reaches.
"""

import json
import multiprocessing
import os
import signal
import time

import pytest
from tests.data.test_synthesize import PROMPTS, images, largest_difference, run
from tests.tiny import EXAMPLES, tiny_pixel_pipeline

from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.io.records import read_records

BATCH_SIZE, SHARD_SIZE = 2, 4
SETTINGS = {"batch_size": BATCH_SIZE, "shard_size": SHARD_SIZE}
TOUCHED = ("fsync", "rename", "replace", "mkdir", "utime", "unlink")
"""Calls after each of which the state of the folder is another."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pixel_pipeline(EXAMPLES[0])


@pytest.fixture(scope="module")
def whole(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(pipe, folder, **SETTINGS)
    return images(folder)


def forked(work):
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def killing_at(moment, pipe, folder):
    """Return a function that makes images and ends in the middle of the call of that number, counted from 0."""

    def work():
        left = moment
        for name in TOUCHED:
            call = getattr(os, name)

            def counted(*arguments, call=call, **options):
                nonlocal left
                left -= 1
                if left == -1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            setattr(os, name, counted)
        run(pipe, folder, **SETTINGS)

    return work


def journalled(folder):
    """Return how many images stand in journals and finished shards."""
    files = [*folder.glob(".shard-*.partial/.journal.jsonl"), *folder.glob("shard-*/metadata.jsonl")]
    return sum(file.read_bytes().count(b"\n") for file in files)


def test_killed_at_every_moment(pipe, whole, tmp_path):
    """Nothing that stood in a journal is made again, nothing comes twice, nothing is left over."""
    moment, lost = 0, []
    while True:
        folder = tmp_path / str(moment)
        process = forked(killing_at(moment, pipe, folder))
        process.join(timeout=60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        before = journalled(folder)
        report = run(pipe, folder, **SETTINGS)
        assert (report.num_images, report.num_new) == (6, 6 - before), moment
        assert largest_difference(images(folder), whole) == 0, moment
        # A manifest that was being written may stay, under a name that no reader looks at.
        left = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".manifest"))
        assert left == ["manifest.json", "shard-00000", "shard-00001"], moment
        assert not [*folder.glob("shard-*/.*")], moment
        records = [record for file in folder.glob("shard-*/metadata.jsonl") for record in read_records(file)]
        assert len({(record["id"], record["seed"]) for record in records}) == len(records) == 6
        assert len(ImageFolderDataset(folder, 32)) == 6
        lost.append(report.num_new)
        moment += 1
    # 6 images in 3 batches: a file and a name for each, and a journal for each batch, at the very least
    assert moment > 15
    assert sorted(set(lost)) == [0, 2, 4, 6]  # whole batches: never half of one


def test_killed_from_outside_at_any_time(pipe, whole, tmp_path):
    """As an operating system without memory does it."""
    for wanted in (2, 4):
        folder = tmp_path / str(wanted)
        process = forked(lambda folder=folder: run(pipe, folder, **SETTINGS, num_steps=2))
        deadline = time.monotonic() + 60
        while journalled(folder) < wanted and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.join()
        before = journalled(folder)
        assert before >= wanted
        assert run(pipe, folder, **SETTINGS).num_new == 6 - before
        assert largest_difference(images(folder), whole) == 0


def test_line_that_was_cut_off(pipe, whole, tmp_path):
    """Power may fail in the middle of a line; the image before it stays."""
    folder = tmp_path / "out"
    # Killed when the third batch's images are being written: the first shard is done, the second has nothing.
    process = forked(killing_at(5, pipe, folder))
    process.join(timeout=60)
    journal = next(folder.glob(".shard-*.partial")) / ".journal.jsonl"
    made = [{"file_name": "000000.png", "id": "x"}]
    journal.write_text(json.dumps(made[0]) + '\n{"file_name": "0000')
    assert run(pipe, folder, **SETTINGS).num_images == 6
    assert largest_difference(images(folder), whole) == 0


def test_two_processes_with_the_same_shards_make_each_once(pipe, whole, tmp_path):
    queue = multiprocessing.get_context("fork").SimpleQueue()
    processes = [forked(lambda: queue.put(run(pipe, tmp_path / "out", **SETTINGS).num_new)) for _ in range(2)]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert queue.get() + queue.get() == 6
    assert largest_difference(images(tmp_path / "out"), whole) == 0


def test_prompts_stay_with_their_images(whole):
    assert {prompt for prompt, _ in whole} == {prompt.prompt for prompt in PROMPTS}
