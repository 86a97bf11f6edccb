"""Who holds a shard in the making: the living, on this machine or another, and nobody who was taken for dead."""

import multiprocessing
import os
import time

import pytest
from PIL import Image

from latent2pixel.data.open_shard import JOURNAL, ShardLostError, take_shard
from latent2pixel.data.shard_claim import FREE, PREFIX, Watch, claims_of, own_claim
from latent2pixel.errors import OutputFolderError
from latent2pixel.io.records import read_records

RECORDS = [{"file_name": "0.png", "seed": 1}, {"file_name": "1.png", "seed": 2}]
PICTURES = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
ELSEWHERE = f"{PREFIX}another-machine@1@0"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shard-00000"


@pytest.fixture
def half(path):
    """A shard with one of two images, in the hands of another machine."""
    with take_shard(path, Watch()).held() as shard:
        shard.add(PICTURES[:1], RECORDS[:1])
    folder = path.with_name(f".{path.name}.partial")
    (folder / FREE).rename(folder / ELSEWHERE)
    return folder


def finish(shard):
    with shard.held():
        todo = [index for index, record in enumerate(RECORDS) if record["file_name"] not in shard.records]
        shard.add([PICTURES[index] for index in todo], [RECORDS[index] for index in todo])
        shard.finish(RECORDS)
    return todo


def test_finished_shard_holds_images_and_records_only(path):
    assert finish(take_shard(path, Watch())) == [0, 1]
    assert sorted(file.name for file in path.iterdir()) == ["0.png", "1.png", "metadata.jsonl"]
    assert read_records(path / "metadata.jsonl") == RECORDS
    assert os.listdir(path.parent) == [path.name]


def test_given_back_shard_goes_on_at_once(path):
    with take_shard(path, Watch()).held() as shard:
        shard.add(PICTURES[:1], RECORDS[:1])
    assert finish(take_shard(path, Watch())) == [1]


def test_shard_in_which_nothing_was_made_leaves_nothing(path):
    with take_shard(path, Watch()).held():
        pass
    assert os.listdir(path.parent) == []


def test_holder_that_lives_keeps_its_shard(path):
    with take_shard(path, Watch()).held() as shard:
        assert take_shard(path, Watch()) is None
        shard.add(PICTURES, RECORDS)
        assert take_shard(path, Watch(silent_s=0)) is None  # on the same machine silence says nothing


def test_holder_that_does_not_run_any_more_is_known_at_once(half, path):
    gone = multiprocessing.get_context("spawn").Process(target=os.getpid)
    gone.start()
    gone.join()
    host = own_claim().removeprefix(PREFIX).rsplit("@", 2)[0]
    claims_of(half)[0].rename(half / f"{PREFIX}{host}@{gone.pid}@{time.time():.0f}")
    assert finish(take_shard(path, Watch())) == [1]


def test_number_of_a_process_that_was_given_again(half, path):
    host, pid, started = own_claim().removeprefix(PREFIX).rsplit("@", 2)
    claims_of(half)[0].rename(half / f"{PREFIX}{host}@{pid}@{float(started) - 1000:.0f}")
    assert finish(take_shard(path, Watch())) == [1]


def test_holder_elsewhere_is_taken_for_dead_after_its_silence(half, path):
    watch = Watch(silent_s=0.2)
    assert take_shard(path, watch) is None
    time.sleep(0.3)
    os.utime(half / ELSEWHERE)  # it lives
    assert take_shard(path, watch) is None
    assert take_shard(path, watch) is None  # the silence counts from the last sign
    time.sleep(0.3)
    assert finish(take_shard(path, watch)) == [1]


@pytest.mark.parametrize(
    "act", [lambda shard: shard.add(PICTURES[1:], RECORDS[1:]), lambda shard: shard.finish(RECORDS)]
)
def test_holder_that_was_taken_for_dead_stops(path, act):
    """Such as one that was paused; the shard belongs to the other, whatever it has done with it by then."""
    shard = take_shard(path, Watch())
    folder = path.with_name(f".{path.name}.partial")

    def lose():
        with shard.held():
            shard.add(PICTURES[:1], RECORDS[:1])
            (folder / own_claim()).rename(folder / ELSEWHERE)
            act(shard)

    with pytest.raises(ShardLostError):
        lose()
    assert [claim.name for claim in claims_of(folder)] == [ELSEWHERE]
    assert len(read_records(folder / JOURNAL)) == 1


def test_missing_file_of_somebody_else_is_no_lost_shard(path):
    with pytest.raises(FileNotFoundError), take_shard(path, Watch()).held():
        (path.parent / "missing").read_text()


def test_shard_where_no_folder_can_be(path):
    path.parent.rmdir()
    path.parent.write_text("x")
    with pytest.raises(OutputFolderError):
        take_shard(path, Watch())
