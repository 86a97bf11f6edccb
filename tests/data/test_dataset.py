"""The training set: exact pixels, nothing unreadable, nothing half-made."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from latent2pixel.data.dataset import FirstImages, ImageFolderDataset
from latent2pixel.errors import DataError
from latent2pixel.io.records import write_records

SIZE_PX = 16


def write_shard(folder, *, num=3, size_px=SIZE_PX, first_seed=0, **fields):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(first_seed)
    records = []
    for index in range(num):
        name = f"{index:06d}.png"
        Image.fromarray(generator.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)).save(folder / name)
        records.append({"file_name": name, "prompt": f"prompt {index}", "seed": first_seed + index} | fields)
    write_records(folder / "metadata.jsonl", records)
    return folder


def test_reads_every_shard_in_order(tmp_path):
    write_shard(tmp_path / "shard-00001", first_seed=10)
    write_shard(tmp_path / "shard-00000")
    dataset = ImageFolderDataset(tmp_path, SIZE_PX)
    assert [dataset[index]["seed"] for index in range(len(dataset))] == [0, 1, 2, 10, 11, 12]
    assert dataset.prompts == ["prompt 0", "prompt 1", "prompt 2"] * 2
    item = dataset[3]
    file = np.array(Image.open(tmp_path / "shard-00001" / "000000.png"))
    assert item["image"].dtype == torch.float32
    torch.testing.assert_close(item["image"], torch.from_numpy(file).permute(2, 0, 1) / 127.5 - 1)


def test_first_images_are_those_of_the_data_set(tmp_path):
    write_shard(tmp_path / "shard-00000", num=3)
    dataset = ImageFolderDataset(tmp_path, SIZE_PX)
    first = FirstImages(dataset, 2)
    assert len(list(first)) == len(first) == 2
    assert torch.equal(first[1], dataset[1]["image"])
    assert torch.equal(first[-1], dataset[1]["image"])
    assert len(FirstImages(dataset, 1000)) == 3
    with pytest.raises(IndexError):
        first[2]


def test_cached_images_equal_those_from_disk(tmp_path):
    write_shard(tmp_path / "shard-00000")
    cached, read = ImageFolderDataset(tmp_path, SIZE_PX), ImageFolderDataset(tmp_path, SIZE_PX, max_cache_bytes=0)
    (tmp_path / "shard-00000" / "000002.png").unlink()
    assert all(torch.equal(cached[index]["image"], read[index]["image"]) for index in range(2))
    cached[2]
    with pytest.raises(DataError):
        read[2]


def test_unusable_images_are_skipped_and_named(tmp_path, caplog):
    shard = write_shard(tmp_path / "shard-00000", num=5)
    whole = (shard / "000001.png").read_bytes()
    (shard / "000001.png").write_bytes(whole[: len(whole) // 2])
    (shard / "000002.png").unlink()
    Image.new("RGB", (SIZE_PX, 2 * SIZE_PX)).save(shard / "000003.png")
    with caplog.at_level(logging.WARNING):
        dataset = ImageFolderDataset(tmp_path, SIZE_PX)
    assert [dataset[index]["seed"] for index in range(len(dataset))] == [0, 4]
    assert [f"00000{number}.png" in reason for number, reason in zip((1, 2, 3), dataset.skipped, strict=True)] == [
        True
    ] * 3
    assert [record.message.startswith("3 of 5 images skipped") for record in caplog.records] == [True]


def test_no_image_of_that_size(tmp_path):
    write_shard(tmp_path / "shard-00000")
    with pytest.raises(DataError, match="no image to train on") as error:
        ImageFolderDataset(tmp_path, 2 * SIZE_PX)
    assert f"{SIZE_PX} x {SIZE_PX} px" in error.value.found


def test_shard_in_the_making_is_not_read(tmp_path):
    write_shard(tmp_path / "shard-00000")
    write_shard(tmp_path / ".shard-00001.partial")
    assert len(ImageFolderDataset(tmp_path, SIZE_PX)) == 3


def test_folder_without_shards_and_without_seeds(tmp_path):
    write_records(write_shard(tmp_path / "mine") / "metadata.jsonl", [{"file_name": "000001.png", "prompt": "a fox"}])
    dataset = ImageFolderDataset(tmp_path / "mine", SIZE_PX)
    assert [(dataset[0]["prompt"], dataset[0]["seed"])] == [("a fox", 1)]


@pytest.mark.parametrize("fields", [{"seed": None}, {"seed": "abc"}, {"seed": 1.5}, {"prompt": None}, {"file_name": 3}])
def test_unusable_record(tmp_path, fields):
    write_shard(tmp_path / "shard-00000", **fields)
    with pytest.raises(DataError, match=r"Record 1 of .*metadata\.jsonl"):
        ImageFolderDataset(tmp_path, SIZE_PX)


def test_empty_or_missing_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="no folder of images"):
            ImageFolderDataset(folder, SIZE_PX)
