"""Packed sets: the same bytes, read by `datasets` and by training, whole or not at all."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pytest
import torch
from huggingface_hub import DatasetCard
from PIL import Image
from pyarrow import parquet
from tests.data.pictures import noise, write_images

from latent2pixel.data import pack as module
from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.data.columns import columns_of, value_of
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.pack import pack
from latent2pixel.errors import ConfigError, DataError, StateError
from latent2pixel.io.packed_image import PackedImage
from latent2pixel.io.records import read_records, write_records


def shards(folder):
    return sorted(path.name for path in (folder / "data").iterdir())


def test_plain_datasets_loads_the_same_pictures(tmp_path):
    from datasets import load_dataset

    write_images(tmp_path / "in", num=5)
    write_images(tmp_path / "in", num=2, first=5, shard="shard-00001")
    report = pack(tmp_path / "in", tmp_path / "out", num_shards=2)
    assert (report.num_images, report.num_shards, report.num_new, report.num_skipped) == (7, 2, 2, 0)
    assert shards(tmp_path / "out") == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    cache = str(tmp_path / "cache")
    by_card = load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    by_format = load_dataset("parquet", data_dir=str(tmp_path / "out" / "data"), split="train", cache_dir=cache)
    for loaded in (by_card, by_format):
        assert [row["prompt"] for row in loaded] == [f"a fox, number {number}" for number in range(7)]
        assert all(np.array_equal(row["image"], noise(number)) for number, row in enumerate(loaded))
        types = {name: feature.dtype for name, feature in loaded.features.items() if name != "image"}
        assert types["seed"] == types["width"] == "int64"
        assert types["guidance"] == "float64"
        assert "file_name" not in types
    stored = parquet.read_table(tmp_path / "out" / "data" / "train-00000-of-00002.parquet")["image"][0].as_py()
    assert stored["bytes"] == (tmp_path / "in" / "shard-00000" / "000000.png").read_bytes()
    assert stored["path"] == "shard-00000/000000.png"


def test_training_reads_it_like_the_folder(tmp_path):
    write_images(tmp_path / "in", num=6)
    pack(tmp_path / "in", tmp_path / "out", num_shards=2)
    loose, packed = (ImageFolderDataset(tmp_path / name, 16, patch_px=8) for name in ("in", "out"))
    assert (packed.prompts, packed.sizes, packed.weights) == (loose.prompts, loose.sizes, loose.weights)
    for index in range(6):
        assert torch.equal(packed[index]["image"], loose[index]["image"])
        assert packed[index]["seed"] == loose[index]["seed"]


@pytest.mark.filterwarnings("ignore:This DataLoader")
def test_workers_read_it(tmp_path):
    write_images(tmp_path / "in", num=6)
    pack(tmp_path / "in", tmp_path / "out", num_shards=2)
    dataset = ImageFolderDataset(tmp_path / "out", 16, patch_px=8, max_cache_bytes=0)
    dataset[0]  # this process has read the file before the workers are forked
    plan = BatchPlan(dataset.sizes, batch_size=3, seed=0)
    with Batches(dataset, plan, seed=0, num_workers=2).over(range(8), places=range(3)) as batches:
        for step, items in enumerate(batches):
            for index, item in zip(plan.images(step), items, strict=True):
                assert torch.equal(item["image"], dataset[index]["image"])


def test_no_picture_is_read_at_the_start(tmp_path, monkeypatch):
    write_images(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "out")
    read = []
    monkeypatch.setattr(PackedImage, "read_bytes", lambda self: read.append(self))
    dataset = ImageFolderDataset(tmp_path / "out", 16, patch_px=8)
    assert (len(dataset), read) == (6, [])


def test_a_set_of_others_without_sizes_is_read_too(tmp_path):
    from datasets import Dataset

    rows = [{"image": noise(number), "prompt": str(number)} for number in range(3)]
    Dataset.from_list(rows).to_parquet(tmp_path / "some.parquet")
    dataset = ImageFolderDataset(tmp_path, 16, patch_px=8)
    assert dataset.prompts == ["0", "1", "2"]
    assert dataset.sizes == [(16, 24)] * 3
    Dataset.from_list([{"image": noise(0), "text": "x"}]).to_parquet(tmp_path / "some.parquet")
    with pytest.raises(DataError, match=r"Record 1 of .*parquet") as error:
        ImageFolderDataset(tmp_path, 16)
    assert error.value.found == "['image', 'text']"


def test_masks_and_weights_go_along(tmp_path):
    write_images(tmp_path / "in", num=3)
    shard = tmp_path / "in" / "shard-00000"
    records = read_records(shard / "metadata.jsonl")
    records[1] |= {"mask": "mask.png", "weight": 3}
    Image.fromarray(np.full((16, 24), 51, dtype=np.uint8)).save(shard / "mask.png")
    write_records(shard / "metadata.jsonl", records)
    pack(tmp_path / "in", tmp_path / "out")
    dataset = ImageFolderDataset(tmp_path / "out", 16, patch_px=8)
    assert dataset.weights == [1, 3, 1]
    assert [dataset[index]["weight_1HW"].mean().item() for index in range(3)] == pytest.approx([1, 0.2, 1])


def test_a_resumed_run_knows_its_packed_images(tmp_path):
    write_images(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "out")
    first = ImageFolderDataset(tmp_path / "out", 16, patch_px=8)
    first.save_listing(tmp_path / "images.jsonl")
    again = ImageFolderDataset(tmp_path / "out", 16, patch_px=8, listing=tmp_path / "images.jsonl")
    assert (again.paths, again.sizes) == (first.paths, first.sizes)


def test_damage_is_found_when_the_image_is_asked_for(tmp_path):
    write_images(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "out")
    dataset = ImageFolderDataset(tmp_path / "out", 16, patch_px=8)
    path = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    (path).write_bytes(whole.replace(b"IDAT", b"XDAT"))
    with pytest.raises(DataError, match="cannot be read") as error:
        dataset[0]
    assert f"{path}#0" in error.value.found
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="Parquet file cannot be read"):
        ImageFolderDataset(tmp_path / "out", 16)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        dataset[3]


def test_unreadable_images_are_skipped_and_named(tmp_path):
    write_images(tmp_path / "in")
    shard = tmp_path / "in" / "shard-00000"
    (shard / "000001.png").write_bytes((shard / "000001.png").read_bytes()[:500])
    (shard / "000002.png").unlink()
    report = pack(tmp_path / "in", tmp_path / "out")
    assert (report.num_images, report.num_skipped) == (4, 2)
    skipped = [record["file"] for record in read_records(tmp_path / "out" / "skipped.jsonl")]
    assert skipped == ["shard-00000/000001.png", "shard-00000/000002.png"]
    assert ImageFolderDataset(tmp_path / "out", 16, patch_px=8).prompts[1] == "a fox, number 3"


def test_pack_again_does_nothing_and_other_images_are_refused(tmp_path):
    write_images(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "out", num_shards=2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()}
    assert pack(tmp_path / "in", tmp_path / "out", num_shards=2).num_new == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()} == before
    with pytest.raises(StateError) as error:
        pack(tmp_path / "in", tmp_path / "out", num_shards=3)
    assert error.value.found == "num_shards = 3"
    noise(99, width=25).save(tmp_path / "in" / "shard-00000" / "000000.png")
    with pytest.raises(StateError, match="other data"):
        pack(tmp_path / "in", tmp_path / "out", num_shards=2)


KILLED = """
import sys, time
from pathlib import Path
from latent2pixel.data import pack as module
read = module._bytes
module._bytes = lambda image: (time.sleep(0.05), read(image))[1]
module.pack(Path(sys.argv[1]), Path(sys.argv[2]), num_shards=8)
"""


def test_a_killed_packing_goes_on_and_ends_alike(tmp_path):
    write_images(tmp_path / "in", num=32)
    pack(tmp_path / "in", tmp_path / "whole", num_shards=8)
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "in", tmp_path / "out"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("data/train-00001*")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = len(list((tmp_path / "out" / "data").glob("train-*")))
    assert done < 8
    assert pack(tmp_path / "in", tmp_path / "out", num_shards=8).num_new == 8 - done
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")


def test_shards_share_the_bytes_and_row_groups_stay_small(tmp_path, monkeypatch):
    write_images(tmp_path / "in", num=40)
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 3000)
    size = (tmp_path / "in" / "shard-00000" / "000000.png").stat().st_size
    report = pack(tmp_path / "in", tmp_path / "out", shard_mb=11 * size / 1e6)
    assert report.num_shards == 4
    for path in (tmp_path / "out" / "data").iterdir():
        footer = parquet.read_metadata(path)
        assert footer.num_rows == pytest.approx(10, abs=1)
        assert {footer.row_group(group).num_rows for group in range(footer.num_row_groups)} in ({2}, {1, 2})


def test_fewer_images_than_files_and_sizes_out_of_range(tmp_path):
    write_images(tmp_path / "in", num=2)
    for options in ({"num_shards": 3}, {"num_shards": 0}, {"shard_mb": 0}):
        with pytest.raises(ConfigError):
            pack(tmp_path / "in", tmp_path / "out", **options)
    assert pack(tmp_path / "in", tmp_path / "out", num_shards=2).num_shards == 2
    write_records(tmp_path / "prompts" / "prompts.jsonl", [])
    for folder in ("prompts", "missing"):
        with pytest.raises(DataError, match="holds no"):
            pack(tmp_path / folder, tmp_path / "other")


@pytest.mark.parametrize(("key", "name"), [("file_name", "../a.png"), ("file_name", "/a.png"), ("mask", "../a.png")])
def test_files_of_elsewhere_are_not_given_away(tmp_path, key, name):
    write_images(tmp_path / "in", num=2, **{key: name})
    noise(0).save(tmp_path / "in" / "a.png")
    with pytest.raises(DataError, match="leads out of the folder"):
        pack(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_null_instead_of_a_picture_is_named(tmp_path):
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    schema = Features({"image": ImageFeature(), "prompt": Value("string"), "width": Value("int64")}).arrow_schema
    rows = [{"image": {"bytes": None, "path": "a.png"}, "prompt": "a", "width": 24}, {"image": None, "prompt": "b"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), tmp_path / "some.parquet")
    with pytest.raises(OSError, match="no bytes"):
        PackedImage(path=tmp_path / "some.parquet", row=0).read_bytes()
    for row in (1, 2, -1):
        with pytest.raises(OSError, match=f"some.parquet#{row}"):
            PackedImage(path=tmp_path / "some.parquet", row=row).read_bytes()
    with pytest.raises(DataError, match="Record 2 of"):
        ImageFolderDataset(tmp_path, 16)


def test_columns_hold_what_records_hold():
    records = [
        {"a": 1, "b": 1, "c": True, "d": None, "e": {"x": [1]}, "guidance": 2, "f": 2**70, "file_name": "x"},
        {"a": 2, "b": 1.5, "c": "mixed", "d": "late", "e": "text"},
    ]
    kinds = columns_of(records)
    assert kinds == {
        "a": "int64", "b": "float64", "c": "string", "e": "string", "guidance": "float64", "f": "string", "d": "string"
    }  # fmt: skip
    assert [value_of(record.get("c"), "string") for record in records] == ["true", "mixed"]
    assert json.loads(value_of(records[0]["e"], "string")) == {"x": [1]}
    assert value_of(None, "int64") is None


def test_the_card_tells_source_licence_and_funnel(tmp_path):
    write_images(tmp_path / "in" / "images", num=4)
    prompts = tmp_path / "in" / "prompts"
    write_records(prompts / "prompts.jsonl", [{"id": "0", "prompt": "a fox", "major_class": "m", "sub_class": "s"}])
    rejected = {"id": "1", "prompt": "b", "stage": "safety", "reason": "safety: 'gore'"}
    write_records(prompts / "rejected.jsonl", [rejected])
    (prompts / "manifest.json").write_text(json.dumps({"model": "some|<b>model</b>", "tokens": 12}))
    pack(tmp_path / "in", tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    front = card.data.to_dict()
    assert front["license"] == "apache-2.0"
    assert front["tags"] == ["latent2pixel", "synthetic"]
    assert front["task_categories"] == ["text-to-image"]
    assert front["size_categories"] == "n<1K"
    assert front["language"] == ["en"]
    for line in (
        "| source | owner/model (4) |",
        "| steps | 30 (4) |",
        r"| model | some\|\<b\>model\</b\> |",
        "| written |  | 2 |",
        "| safety | 1 | 1 |",
        "| nature | animals | 4 | 100.0% |",
    ):
        assert line in card.text, line


def test_the_card_of_real_images_and_of_unknown_licences(tmp_path):
    write_images(tmp_path / "real", num=2, origin="real", licence="My Own Licence 1.0")
    write_images(tmp_path / "none", num=2, licence="")
    pack(tmp_path / "real", tmp_path / "out")
    front = DatasetCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert (front["license"], front["license_name"]) == ("other", "my-own-licence-1.0")
    assert front["tags"] == ["latent2pixel"]
    pack(tmp_path / "none", tmp_path / "out2")
    assert "license" not in DatasetCard.load(tmp_path / "out2" / "README.md").data.to_dict()
    pack(tmp_path / "none", tmp_path / "out2", licence="mit")
    assert DatasetCard.load(tmp_path / "out2" / "README.md").data.license == "mit"


def test_a_set_that_is_licensed_in_part_has_no_licence(tmp_path):
    write_images(tmp_path / "in", num=2)
    write_images(tmp_path / "in", num=3, shard="shard-00001", licence="")
    pack(tmp_path / "in", tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license is None
    assert "licence of their source: apache-2.0. No licence is recorded for 3 images." in card.text
    pack(tmp_path / "in", tmp_path / "out", licence="mit")
    front = DatasetCard.load(tmp_path / "out" / "README.md").data
    assert (front.license, front.license_name) == ("other", "apache-2.0-and-mit")


def test_packed_sets_can_be_packed_again(tmp_path):
    write_images(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "once")
    pack(tmp_path / "once", tmp_path / "twice", num_shards=3)
    first, second = (ImageFolderDataset(tmp_path / name, 16, patch_px=8) for name in ("once", "twice"))
    assert first.prompts == second.prompts
    assert first.paths[5].read_bytes() == second.paths[5].read_bytes()
    assert Image.open(io.BytesIO(second.paths[5].read_bytes())).size == (24, 16)
