"""Batches are the same whoever decodes them, however they are shared, and whatever is damaged on the way."""

import logging
import multiprocessing
import os
import signal

import pytest
import torch
from tests.data.test_dataset import SIZE_PX, write_shard

from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.told_images import ToldImages
from latent2pixel.errors import DataError

NUM, BATCH, SEED = 12, 4, 7


@pytest.fixture
def folder(tmp_path):
    write_shard(tmp_path / "images", num=NUM)
    return tmp_path / "images"


def damage(folder, *numbers):
    """One byte in the middle: the checksum no longer fits."""
    for number in numbers:
        path = folder / f"{number:06d}.png"
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 0xFF
        path.write_bytes(whole)


def batches(folder, *, dataset=None, buckets=None, **options):
    images = ImageFolderDataset(folder, SIZE_PX)
    plan = BatchPlan(buckets or images.sizes, images.weights, batch_size=BATCH, seed=SEED)
    return Batches(dataset or images, plan, names=images.paths, seed=SEED, **options)


def read(source, steps=range(6), places=range(BATCH)):
    with source.over(steps, places=places) as lists:
        return list(lists)


def seeds(lists):
    return [[item["seed"] for item in items] for items in lists]


def equal(first, second):
    return all(
        torch.equal(a["image"], b["image"]) and (a["prompt"], a["seed"]) == (b["prompt"], b["seed"])
        for left, right in zip(first, second, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def test_batches_follow_the_plan_from_any_step_on(folder):
    images = ImageFolderDataset(folder, SIZE_PX)
    plan = BatchPlan(images.sizes, batch_size=BATCH, seed=SEED)
    whole = read(batches(folder))
    assert seeds(whole) == [plan.images(step) for step in range(6)]
    assert all(torch.equal(item["image"], images[item["seed"]]["image"]) for items in whole for item in items)
    assert equal(read(batches(folder), range(4, 6)), whole[4:])
    assert batches(folder).names(2) == [str(images.paths[index]) for index in plan.images(2)]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(folder, num_workers):
    damage(folder, 3)
    options = {"horizontal_flip": True, "max_bad_images": 0.1}
    alone, ahead = batches(folder, **options), batches(folder, num_workers=num_workers, **options)
    state = torch.get_rng_state()
    assert equal(read(alone), read(ahead))
    assert alone.bad == ahead.bad
    assert list(alone.bad) == [3]
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_a_batch_by_their_places(folder):
    damage(folder, 3)
    options = {"horizontal_flip": True}
    whole = read(batches(folder, **options))
    parts = [read(batches(folder, **options), places=range(rank, BATCH, 2)) for rank in range(2)]
    assert equal([items[0::2] for items in whole], parts[0])
    assert equal([items[1::2] for items in whole], parts[1])


def test_flip_mirrors_half_of_the_images_and_their_masks(folder):
    plain, flipped = read(batches(folder), range(60)), read(batches(folder, horizontal_flip=True), range(60))
    mirrored = []
    for left, right in zip(plain, flipped, strict=True):
        for place, (a, b) in enumerate(zip(left, right, strict=True)):
            same = torch.equal(a["image"], b["image"])
            assert same != torch.equal(a["image"].flip(2), b["image"])
            mirrored.append((place, not same))
    assert sum(flag for _, flag in mirrored) == pytest.approx(120, abs=30)  # four standard deviations
    assert {flag for place, flag in mirrored if place == 0} == {True, False}
    assert seeds(plain) == seeds(flipped)


def test_masks_are_mirrored_with_their_images(folder):
    class Masked(torch.utils.data.Dataset):
        def __getitem__(self, index):
            image = torch.arange(16.0).expand(3, 16, 16) / 16
            return {"image": image, "weight_1HW": image[:1], "prompt": "", "seed": index}

    for items in read(batches(folder, dataset=Masked(), horizontal_flip=True)):
        assert all(torch.equal(item["image"][:1], item["weight_1HW"]) for item in items)


def test_damaged_image_is_replaced_within_its_bucket_alike_after_a_restart(folder, caplog):
    buckets = [number % 2 for number in range(NUM)]
    before = seeds(read(batches(folder, buckets=buckets), range(30)))
    damage(folder, 5)
    source = batches(folder, buckets=buckets)
    with caplog.at_level(logging.WARNING):
        after = seeds(read(source, range(30)))
    replaced = [
        (old, new) for left, right in zip(before, after, strict=True) for old, new in zip(left, right, strict=True)
    ]
    assert all(old == new for old, new in replaced if old != 5)
    instead = [new for old, new in replaced if old == 5]
    assert len(instead) == 10
    assert all(new % 2 == 1 and new != 5 for new in instead)
    assert len(set(instead)) > 1
    assert [record.message.count("000005.png") > 0 for record in caplog.records] == [True]
    assert seeds(read(batches(folder, buckets=buckets), range(13, 30))) == after[13:]


def test_removed_image_is_replaced_too(folder):
    source = batches(folder)
    (folder / "000002.png").unlink()
    assert 2 not in {seed for items in seeds(read(source)) for seed in items}
    assert "000002.png" in source.bad[2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_damaged_images_end_the_run_and_are_named(folder, num_workers):
    damage(folder, 1, 4, 9)
    with pytest.raises(DataError, match="More images are damaged") as error:
        read(batches(folder, max_bad_images=2 / NUM, num_workers=num_workers), range(20))
    assert error.value.found.startswith("3 of 12")
    assert all(f"00000{number}.png" in error.value.found for number in (1, 4, 9))
    assert "at most 2" in error.value.expected
    assert multiprocessing.active_children() == []
    read(batches(folder, max_bad_images=3 / NUM, num_workers=num_workers), range(20))


def test_one_damaged_image_ends_only_a_run_that_allows_none(folder):
    damage(folder, 1)
    read(batches(folder), range(20))
    with pytest.raises(DataError, match="More images are damaged"):
        read(batches(folder, max_bad_images=0.0), range(20))


def test_bucket_without_a_readable_image_ends_the_run(folder):
    damage(folder, 1)
    with pytest.raises(DataError, match="readable one in every bucket"):
        read(batches(folder, buckets=[number == 1 for number in range(NUM)], max_bad_images=0.5), range(20))


def test_workers_end_with_the_block_and_outlive_one_sigterm(folder):
    """A job's signal reaches every process; the training goes on to its checkpoint."""
    expected = read(batches(folder), range(40))
    with batches(folder, num_workers=2).over(range(40), places=range(BATCH)) as lists:
        first = next(lists)
        children = multiprocessing.active_children()
        assert len(children) == 2
        for child in children:
            os.kill(child.pid, signal.SIGTERM)
        assert equal([first, *lists], expected)
    with batches(folder, num_workers=2).over(range(1000), places=range(BATCH)) as lists:
        next(lists)
    assert multiprocessing.active_children() == []


def test_what_is_told_comes_through_workers(folder, tmp_path):
    images = ImageFolderDataset(folder, SIZE_PX)
    damage(folder, 3)

    def encode(images_BCHW):
        return [{"mean": image_CHW.mean().view(1)} for image_CHW in images_BCHW]

    told = ToldImages(images, tmp_path / "told", encode, batch_size=4, fingerprint="")
    lists = read(batches(folder, dataset=told, num_workers=2))
    for item in (item for items in lists for item in items):
        torch.testing.assert_close(item["told"]["mean"], item["image"].mean().view(1))
    assert 3 not in {seed for items in seeds(lists) for seed in items}
