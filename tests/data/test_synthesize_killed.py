"""Images of a process that is killed: whenever it happens, what was finished stays, and the rest comes out the same.

The process is a fork with a loaded pipeline, so that many moments can be tried. It kills itself with SIGKILL in the
middle of its n-th call to the file system, for every n that it reaches.
"""

import multiprocessing
import os
import shutil
import signal
import threading
import time

import pytest
from tests.data.test_synthesize import PROMPTS, darkness, images, largest_difference, run
from tests.tiny import EXAMPLES, tiny_pixel_pipeline
from tqdm.auto import tqdm

from latent2pixel.data.curation import Curation
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.io.records import read_records

BATCH_SIZE, SHARD_SIZE = 2, 4
SETTINGS = {"batch_size": BATCH_SIZE, "shard_size": SHARD_SIZE, "num_steps": 1}
TOUCHED = ("fsync", "rename", "replace", "mkdir", "utime", "unlink")
"""Calls after each of which the state of the folder is another."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True, scope="module")
def _own_progress_lock():
    """Give tqdm a lock of this process: one that it shares with a killed child would never come free again."""
    tqdm.set_lock(threading.RLock())


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


def killing_at(moment, pipe, folder, **settings):
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
        run(pipe, folder, **(SETTINGS | settings))

    return work


def journalled(folder):
    """Return how many images stand in journals and finished shards."""
    while True:
        files = [*folder.glob(".shard-*.partial/.journal.jsonl"), *folder.glob("shard-*/[!.]*.jsonl")]
        try:
            return sum(file.read_bytes().count(b"\n") for file in files)
        except FileNotFoundError:
            continue  # a shard was finished between the list and the reading


BEST_OF_TWO = {"curation": Curation(scorer=darkness, best_of=2), "seeds_per_prompt": 1}


@pytest.mark.parametrize(("settings", "num_kept"), [({}, 6), (BEST_OF_TWO, 3)], ids=["all", "best of two"])
def test_killed_at_every_moment(pipe, tmp_path, settings, num_kept):
    """Six images: none that stood in a journal is made again, none comes twice, nothing is left over."""
    run(pipe, tmp_path / "whole", **SETTINGS, **settings)
    shards = sorted(path.name for path in (tmp_path / "whole").glob("shard-*"))
    moment, lost = 0, []
    while True:
        folder = tmp_path / str(moment)
        process = forked(killing_at(moment, pipe, folder, **settings))
        process.join(timeout=60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        before = journalled(folder)
        report = run(pipe, folder, **SETTINGS, **settings)
        assert (report.num_images, report.num_new, report.num_rejected) == (num_kept, 6 - before, 6 - num_kept), moment
        assert largest_difference(images(folder), images(tmp_path / "whole")) == 0, moment
        # A manifest that was being written may stay, under a name that no reader looks at.
        left = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".manifest"))
        assert left == ["manifest.json", *shards], moment
        assert not [*folder.glob("shard-*/.*")], moment
        assert len([*folder.glob("shard-*/*.png")]) == len(ImageFolderDataset(folder, 32)) == num_kept
        records = [record for file in folder.glob("shard-*/*.jsonl") for record in read_records(file)]
        assert len({(record["id"], record["seed"]) for record in records}) == len(records) == 6
        lost.append(report.num_new)
        moment += 1
    # A file and a name for each image, a journal for each of three batches, at the very least.
    assert moment > 15
    assert set(lost) == {0, 2, 4, 6}  # whole batches, never half of one


def test_killed_from_outside_at_any_time(pipe, whole, tmp_path):
    """As an operating system without memory does it."""
    for wanted in (2, 4):
        folder = tmp_path / str(wanted)
        process = forked(lambda folder=folder: run(pipe, folder, **SETTINGS))
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
    """Power may fail in the middle of a line; what stands before it stays."""
    folder = tmp_path / "out"
    moment = 0
    while not (journals := [*folder.glob(".shard-*.partial/.journal.jsonl")]) or journalled(folder) < BATCH_SIZE:
        shutil.rmtree(folder, ignore_errors=True)
        forked(killing_at(moment, pipe, folder)).join(timeout=60)
        moment += 1
    with journals[0].open("a") as journal:
        journal.write('{"file_name": "0000')
    assert run(pipe, folder, **SETTINGS).num_new == 6 - BATCH_SIZE
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
