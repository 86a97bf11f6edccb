"""The training set: exact pixels, nothing unreadable, nothing half-made."""

import logging
import re

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

from latent2pixel.data.dataset import FirstImages, ImageFolderDataset
from latent2pixel.errors import ConfigError, DataError, StateError
from latent2pixel.io.images import as_floats
from latent2pixel.io.records import read_records, write_records

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
    assert torch.equal(first[1], dataset.stored(1)["image"])
    assert torch.equal(first[-1], dataset.stored(1)["image"])
    assert torch.equal(as_floats(first[1]), dataset[1]["image"])
    assert len(FirstImages(dataset, 1000)) == 3
    with pytest.raises(IndexError):
        first[2]


def test_cached_images_equal_those_from_disk(tmp_path):
    write_shard(tmp_path / "shard-00000")
    cached, read = ImageFolderDataset(tmp_path, SIZE_PX), ImageFolderDataset(tmp_path, SIZE_PX, max_cache_bytes=0)
    kept = [cached[index]["image"] for index in range(3)]
    (tmp_path / "shard-00000" / "000002.png").unlink()
    assert all(torch.equal(cached[index]["image"], read[index]["image"]) for index in range(2))
    assert torch.equal(cached[2]["image"], kept[2])
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


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": None},
        {"seed": "abc"},
        {"seed": 1.5},
        {"prompt": None},
        {"file_name": 3},
        {"weight": 0},
        {"weight": True},
        {"weight": float("nan")},
        {"weight": "2"},
        {"mask": None},
        {"mask": 3},
    ],
)
def test_unusable_record(tmp_path, fields):
    write_shard(tmp_path / "shard-00000", **fields)
    with pytest.raises(DataError, match=r"Record 1 of .*metadata\.jsonl"):
        ImageFolderDataset(tmp_path, SIZE_PX)


def test_empty_or_missing_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="no folder of images"):
            ImageFolderDataset(folder, SIZE_PX)


def test_damage_in_the_middle_is_found_when_the_image_is_asked_for(tmp_path):
    shard = write_shard(tmp_path / "shard-00000")
    path = shard / "000001.png"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    dataset = ImageFolderDataset(tmp_path, SIZE_PX)
    assert len(dataset) == 3
    with pytest.raises(DataError, match="cannot be read"):
        dataset[1]
    assert dataset[2]["seed"] == 2


def test_nothing_is_decoded_at_the_start(tmp_path, monkeypatch):
    write_shard(tmp_path / "shard-00000")
    decoded = []
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda self: (decoded.append(self.filename), load(self))[1])
    dataset = ImageFolderDataset(tmp_path, SIZE_PX)
    assert decoded == []
    dataset[0]
    assert decoded


def save_ramp(path, *, width, height, **options):
    """Red grows to the right, green downwards, by one a pixel."""
    columns, rows = np.meshgrid(np.arange(width, dtype=np.uint8), np.arange(height, dtype=np.uint8))
    Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1)).save(path, **options)


def test_aspect_buckets_crop_around_the_centre_and_never_enlarge(tmp_path):
    """Buckets of 32 px and a patch of 16: (32, 32), (48, 32), (32, 48), (48, 16), (16, 48)."""
    sizes = {"square": (40, 40), "wide": (96, 64), "tall": (32, 50), "exact": (32, 32), "small": (47, 31)}
    for name, (width, height) in sizes.items():
        save_ramp(tmp_path / f"{name}.png", width=width, height=height)
    write_records(tmp_path / "metadata.jsonl", [{"file_name": f"{name}.png", "prompt": name} for name in sizes])
    dataset = ImageFolderDataset(tmp_path, 32, patch_px=16)
    assert dict(zip(dataset.prompts, dataset.sizes, strict=True)) == {
        "square": (32, 32), "wide": (32, 48), "tall": (48, 32), "exact": (32, 32)
    }  # fmt: skip
    assert [reason.endswith("small.png: 47 x 31 px, not 48 x 32") for reason in dataset.skipped] == [True]
    items = map(dataset.__getitem__, range(4))
    bytes_of_items = {item["prompt"]: ((item["image"] + 1) * 127.5).round() for item in items}
    assert torch.equal(bytes_of_items["exact"][0], torch.arange(32.0).expand(32, 32))
    # half as large: pixel i covers 2 i and 2 i + 1, whose mean is rounded
    inner = bytes_of_items["wide"][0][:, 8:-8]
    torch.testing.assert_close(inner, (2 * torch.arange(48.0) + 0.5).expand(32, 48)[:, 8:-8], atol=0.51, rtol=0)
    # two rows too many: one at each end
    assert torch.equal(bytes_of_items["tall"][1], (torch.arange(48.0) + 1)[:, None].expand(48, 32))


def test_picture_is_turned_upright_before_it_is_measured(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the first row of the file is the right-hand column of the picture
    save_ramp(tmp_path / "a.jpg", width=32, height=48, exif=exif, quality=100)
    write_records(tmp_path / "metadata.jsonl", [{"file_name": "a.jpg", "prompt": "a"}])
    dataset = ImageFolderDataset(tmp_path, 32, patch_px=16)
    assert dataset.sizes == [(32, 48)]
    green = dataset[0]["image"][1]
    assert (green[:, 0] > green[:, -1] + 0.3).all()


def test_masks_are_cropped_as_their_images(tmp_path):
    save_ramp(tmp_path / "a.png", width=100, height=64)
    save_ramp(tmp_path / "b.png", width=48, height=32)
    mask = np.zeros((64, 100), dtype=np.uint8)
    mask[:32, :50] = 255  # the left upper quarter
    Image.fromarray(mask).save(tmp_path / "mask.png")
    records = [{"file_name": f"{name}.png", "prompt": name} for name in "abb"]
    records[0]["mask"] = "mask.png"
    records[2]["mask"] = "mask.png"  # of another size than its image
    write_records(tmp_path / "metadata.jsonl", records)
    dataset = ImageFolderDataset(tmp_path, 32, patch_px=16)
    assert ["mask of another size" in reason for reason in dataset.skipped] == [True]
    for _ in range(2):  # the second time from memory
        masked, plain = dataset[0]["weight_1HW"], dataset[1]["weight_1HW"]
        assert masked.shape == plain.shape == (1, 32, 48)
        assert plain.min() == 1
        expected = torch.zeros(32, 48)
        expected[:16, :24] = 1
        away_from_edges = torch.ones(32, 48, dtype=bool)
        away_from_edges[12:20] = away_from_edges[:, 20:28] = False
        assert torch.equal(masked[0][away_from_edges], expected[away_from_edges])


def test_sets_without_masks_have_no_weights(tmp_path):
    write_shard(tmp_path / "shard-00000")
    assert "weight_1HW" not in ImageFolderDataset(tmp_path, SIZE_PX)[0]


def test_mixed_folders_weigh_as_their_shares(tmp_path):
    main, real, more = tmp_path / "main", tmp_path / "real", tmp_path / "more"
    write_shard(main, num=4)
    write_shard(real, num=2, weight=3)
    write_shard(more, num=3)
    dataset = ImageFolderDataset(main, SIZE_PX, mix={real: 0.5, more: 0.25})
    assert len(dataset) == 9
    assert dataset.weights[:4] == [1, 1, 1, 1]
    assert sum(dataset.weights[4:6]) / sum(dataset.weights) == pytest.approx(0.5)
    assert sum(dataset.weights[6:]) / sum(dataset.weights) == pytest.approx(0.25)
    assert [path.parent for path in dataset.paths] == [main] * 4 + [real] * 2 + [more] * 3


@pytest.mark.parametrize("shares", [[1.0], [0.6, 0.4], [-0.1], [0.0], [float("nan")]])
def test_shares_out_of_range_are_refused(tmp_path, shares):
    mix = {write_shard(tmp_path / str(number)): share for number, share in enumerate(shares)}
    with pytest.raises(ConfigError, match="shares"):
        ImageFolderDataset(write_shard(tmp_path / "main"), SIZE_PX, mix=mix)


def test_a_resumed_run_keeps_its_images_though_some_are_gone(tmp_path):
    shard, listing = write_shard(tmp_path / "shard-00000", num=5), tmp_path / "run" / "images.jsonl"
    (shard / "000000.png").write_bytes(b"")
    first = ImageFolderDataset(tmp_path, SIZE_PX, listing=listing)
    first.save_listing(listing)
    (shard / "000003.png").unlink()
    Image.new("RGB", (SIZE_PX, SIZE_PX)).save(shard / "000000.png")
    again = ImageFolderDataset(tmp_path, SIZE_PX, listing=listing)
    assert again.paths == first.paths
    assert again.skipped == first.skipped
    with pytest.raises(DataError, match="cannot be read"):
        again[2]
    assert len(ImageFolderDataset(tmp_path, SIZE_PX)) == 4


@pytest.mark.parametrize(("change", "found"), [({"prompt": "another"}, "number 2.*another"), ({"seed": 9}, "number 2")])
def test_changed_records_are_refused_with_the_difference(tmp_path, change, found):
    write_shard(tmp_path / "shard-00000")
    listing, records = tmp_path / "images.jsonl", read_records(tmp_path / "shard-00000" / "metadata.jsonl")
    ImageFolderDataset(tmp_path, SIZE_PX).save_listing(listing)
    records[1] |= change
    write_records(tmp_path / "shard-00000" / "metadata.jsonl", records)
    with pytest.raises(StateError, match="data have changed") as error:
        ImageFolderDataset(tmp_path, SIZE_PX, listing=listing)
    assert re.search(found, error.value.found)
    assert "prompt 1" in error.value.expected


def test_added_and_removed_records_are_refused(tmp_path):
    shard, listing = write_shard(tmp_path / "shard-00000"), tmp_path / "images.jsonl"
    records = read_records(shard / "metadata.jsonl")
    ImageFolderDataset(tmp_path, SIZE_PX).save_listing(listing)
    for changed in (records[:2], [*records, records[0]]):
        write_records(shard / "metadata.jsonl", changed)
        with pytest.raises(StateError, match=f"{len(changed)} records, the first that differs is number"):
            ImageFolderDataset(tmp_path, SIZE_PX, listing=listing)
