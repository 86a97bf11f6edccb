"""Import of real images: everything is there once, or named with a reason; a killed import goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from tests.data.pictures import noise

from latent2pixel.data import import_images as module
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.import_images import import_images
from latent2pixel.errors import ConfigError, DataError, OutputFolderError, StateError
from latent2pixel.io.records import read_records, write_records


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD_SIZE", 4)


def real_folder(folder, *, num=10, **fields):
    folder.mkdir(parents=True)
    records = []
    for number in range(num):
        noise(number).save(folder / f"{number}.png")
        records.append({"file_name": f"{number}.png", "text": f"a real fox {number}"} | fields)
    write_records(folder / "metadata.jsonl", records)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_records_have_the_fields_of_made_images(tmp_path, small_shards):
    real_folder(tmp_path / "in", num=6, sub_class="animals")
    report = import_images(tmp_path / "in", tmp_path / "out", source="my camera", licence="cc0-1.0")
    assert (report.num_images, report.num_new, report.num_skipped) == (6, 6, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "shard-00000", "shard-00001"]
    record = read_records(tmp_path / "out" / "shard-00001" / "metadata.jsonl")[1]
    assert record.pop("pixels")
    assert record == {
        "file_name": "000005.png",
        "id": "000005",
        "prompt": "a real fox 5",
        "major_class": "unsorted",
        "sub_class": "animals",
        "source": "my camera",
        "licence": "cc0-1.0",
        "seed": 5,
        "width": 24,
        "height": 16,
        "origin": "real",
        "original": "5.png",
    }
    assert (tmp_path / "out" / "shard-00001" / "000005.png").read_bytes() == (tmp_path / "in" / "5.png").read_bytes()


def test_unusable_images_are_skipped_counted_and_named(tmp_path, small_shards):
    folder = real_folder(tmp_path / "in")
    (folder / "1.png").unlink()
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    noise(3).save(folder / "4.png")
    records = read_records(folder / "metadata.jsonl")
    records[5]["text"] = " "
    records[6]["text"] = "half a pair: \ud83d"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = import_images(folder, tmp_path / "out")
    assert (report.num_images, report.num_skipped) == (5, 5)
    skipped = {record["file"]: record["reason"] for record in read_records(tmp_path / "out" / "skipped.jsonl")}
    assert skipped.pop("2.png").startswith("damaged: ")
    assert skipped == {
        "1.png": "no such file",
        "4.png": "duplicate: the same picture as 3.png",
        "5.png": "no caption",
        "6.png": "text that is not Unicode",
    }
    assert report.skipped["duplicate"] == report.skipped["damaged"] == 1
    assert ImageFolderDataset(tmp_path / "out", 16, patch_px=8).prompts == [f"a real fox {n}" for n in (0, 3, 7, 8, 9)]


def test_duplicates_are_found_across_shards_and_calls(tmp_path, small_shards):
    folder = real_folder(tmp_path / "in")
    for number in (5, 9):
        noise(0).save(folder / f"{number}.png")
    import_images(folder, tmp_path / "whole")
    import_images(folder, tmp_path / "out")
    for number in (1, 2):
        for path in (tmp_path / "out" / f"shard-0000{number}").iterdir():
            path.unlink()
        (tmp_path / "out" / f"shard-0000{number}").rmdir()
    report = import_images(folder, tmp_path / "out")
    assert (report.num_images, report.num_new, report.num_skipped) == (8, 4, 2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_same_call_again_does_nothing(tmp_path, small_shards, monkeypatch):
    folder = real_folder(tmp_path / "in")
    (folder / "1.png").write_bytes(b"")
    first = import_images(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    looked = []
    look = module.usable_image
    monkeypatch.setattr(module, "usable_image", lambda path, **options: (looked.append(path), look(path, **options))[1])
    again = import_images(folder, tmp_path / "out")
    assert looked == []
    assert (again.num_images, again.num_new, again.num_skipped) == (first.num_images, 0, 1)
    assert contents(tmp_path / "out") == before


KILLED = """
import sys, time
from pathlib import Path
from latent2pixel.data import import_images as module
module.SHARD_SIZE = 4
look = module.usable_image
module.usable_image = lambda path, **options: (time.sleep(0.05), look(path, **options))[1]
module.import_images(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_import_goes_on_and_ends_alike(tmp_path, small_shards):
    folder = real_folder(tmp_path / "in", num=40)
    (folder / "3.png").write_bytes(b"")
    noise(0).save(folder / "30.png")
    import_images(folder, tmp_path / "whole")
    killed = subprocess.Popen([sys.executable, "-c", KILLED, folder, tmp_path / "out"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "shard-00001").exists():
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = len(list((tmp_path / "out").glob("shard-*/*.png")))
    assert 0 < done < 38
    report = import_images(folder, tmp_path / "out")
    assert (report.num_images, report.num_new) == (38, 38 - done)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_size_makes_squares_for_a_mix(tmp_path):
    folder = real_folder(tmp_path / "in", num=4)
    noise(9, width=8, height=8).save(folder / "1.png")
    assert import_images(folder, tmp_path / "out", size_px=16).num_skipped == 1
    write_records(tmp_path / "made" / "metadata.jsonl", [{"file_name": "a.png", "prompt": "made"}])
    noise(0, width=16).save(tmp_path / "made" / "a.png")
    mixed = ImageFolderDataset(tmp_path / "made", 16, mix={tmp_path / "out": 0.5})
    assert mixed.skipped == []
    assert sum(mixed.weights[1:]) == pytest.approx(mixed.weights[0])


def test_other_settings_and_other_rows_are_refused(tmp_path):
    folder = real_folder(tmp_path / "in")
    import_images(folder, tmp_path / "out")
    with pytest.raises(StateError, match="begun with other data") as error:
        import_images(folder, tmp_path / "out", size_px=16)
    assert error.value.found == "size_px = 16"
    write_records(folder / "metadata.jsonl", [{"file_name": "0.png", "text": "another"}])
    with pytest.raises(StateError):
        import_images(folder, tmp_path / "out")


def test_hostile_metadata_leave_nothing_behind(tmp_path):
    folder = real_folder(tmp_path / "in")
    write_records(
        folder / "metadata.jsonl",
        [{"file_name": "0.png", "text": "fine"}, {"file_name": "../../etc/hostname", "text": "x"}],
    )
    with pytest.raises(DataError, match="leads out"):
        import_images(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_usable_and_sizes_out_of_range(tmp_path):
    folder = real_folder(tmp_path / "in", num=1)
    (folder / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image to import") as error:
        import_images(folder, tmp_path / "out")
    assert "0.png: no image of a known format" in error.value.found
    noise(0).save(folder / "0.png")
    assert import_images(folder, tmp_path / "out").num_images == 1, "corrected files are looked at again"
    assert read_records(tmp_path / "out" / "skipped.jsonl") == []
    with pytest.raises(ConfigError):
        import_images(folder, tmp_path / "out", size_px=0)


def test_plain_datasets_loads_it(tmp_path, small_shards):
    datasets = pytest.importorskip("datasets")
    folder = real_folder(tmp_path / "in", num=13, licence="")
    records = read_records(folder / "metadata.jsonl")
    records[7]["licence"] = "cc0-1.0"  # the others tell none
    write_records(folder / "metadata.jsonl", records)
    for number in range(8, 12):
        (folder / f"{number}.png").write_bytes(b"")  # a shard without an image
    import_images(folder, tmp_path / "out")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = {row["prompt"]: row for row in loaded["train"]}
    assert len(rows) == 9
    assert isinstance(rows["a real fox 7"]["image"], Image.Image)
    assert rows["a real fox 7"]["licence"] == "cc0-1.0"
    files = (tmp_path / "out").glob("shard-*/metadata.jsonl")
    assert len({tuple(sorted(record)) for file in files for record in read_records(file)}) == 1


def test_a_missing_shard_in_the_middle_loses_no_reason(tmp_path, small_shards):
    folder = real_folder(tmp_path / "in", num=12)
    for number in (1, 5, 9):
        (folder / f"{number}.png").unlink()
    import_images(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "shard-00001")
    assert import_images(folder, tmp_path / "out").num_skipped == 3
    assert contents(tmp_path / "out") == before


def test_names_without_a_file_do_not_end_the_import(tmp_path):
    folder = real_folder(tmp_path / "in", num=2)
    (folder / "loop.png").symlink_to("loop.png")
    names = ["loop.png", "half \ud83d pair.png", "n" * 5000 + ".png", ".", "0.png/more"]
    with (folder / "metadata.jsonl").open("a") as file:
        file.writelines(json.dumps({"file_name": name, "text": "x"}) + "\n" for name in names)
    report = import_images(folder, tmp_path / "out")
    assert (report.num_images, report.num_skipped) == (2, 5)


def test_the_output_is_another_folder(tmp_path):
    folder = real_folder(tmp_path / "in")
    with pytest.raises(OutputFolderError, match="they come from"):
        import_images(folder, folder / ".." / "in")
