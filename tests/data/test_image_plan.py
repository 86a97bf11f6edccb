"""What is to be made is decided beforehand: sizes by exact shares, seeds of their own, places in shards."""

from collections import Counter
from itertools import pairwise

import pytest

from latent2pixel.data.buckets import bucket_sizes
from latent2pixel.data.image_plan import deal_sizes, plan_shards, sizes_of
from latent2pixel.data.prompts import Prompt
from latent2pixel.errors import ConfigError

A, B, C = (64, 64), (48, 80), (80, 48)
PROMPTS = [Prompt(id=str(index), prompt=f"text {index}", major_class="m", sub_class="s") for index in range(5)]


@pytest.mark.parametrize(
    ("shares", "num_images", "counts"),
    [
        ({A: 1.0}, 7, {A: 7}),
        ({A: 1.0, B: 1.0}, 7, {A: 4, B: 3}),
        ({A: 2.0, B: 1.0, C: 1.0}, 100, {A: 50, B: 25, C: 25}),
        ({A: 0.5, B: 0.3, C: 0.2}, 11, {A: 6, B: 3, C: 2}),  # 5.5, 3.3, 2.2: one is left for the largest remainder
        ({A: 0.0001, B: 1.0}, 10, {B: 10}),
    ],
)
def test_sizes_are_dealt_by_exact_shares(shares, num_images, counts):
    assert Counter(deal_sizes(shares, num_images, seed=0)) == counts


def test_order_of_sizes_is_random_and_depends_on_the_seed_alone():
    shares = {A: 1.0, B: 1.0}
    one = deal_sizes(shares, 100, seed=0)
    assert one == deal_sizes(shares, 100, seed=0)
    assert one != deal_sizes(shares, 100, seed=1)
    assert 30 < sum(first != second for first, second in pairwise(one)) < 70


def test_sizes_of_aspects_are_those_that_training_crops_to():
    sizes = sizes_of("1:1=2,3:2,9:16=0.5", 1024, patch_px=16)
    assert sizes == {(1024, 1024): 2.0, (832, 1248): 1.0, (1360, 768): 0.5}
    assert set(sizes) <= set(bucket_sizes(1024, patch_px=16))


@pytest.mark.parametrize("aspects", ["", "1:1,", "1x1", "0:1", "1:1=0", "1:1=-1", "1:1,1:1", "1:1,2:2", "3:2=a"])
def test_aspects_that_are_none(aspects):
    with pytest.raises(ConfigError, match="aspects"):
        sizes_of(aspects, 1024, patch_px=16)


def test_every_image_has_one_place():
    shards = plan_shards(PROMPTS, {A: 1.0}, seeds_per_prompt=2, candidates=3, shard_size=4, seed=0)
    assert [len(shard) for shard in shards] == [12, 12, 6]
    jobs = [job for shard in shards for job in shard]
    assert len({job.seed for job in jobs}) == 30
    assert [job.prompt.id for job in jobs[::3]] == ["0", "1", "2", "3", "4"] * 2
    for shard in shards:
        assert len({job.file_name for job in shard}) == len(shard)


def test_first_candidate_is_the_image_of_a_run_without_candidates():
    def seeds(candidates):
        shards = plan_shards(PROMPTS, {A: 1.0}, seeds_per_prompt=2, candidates=candidates, shard_size=4, seed=0)
        return [job.seed for shard in shards for job in shard][::candidates]

    assert seeds(3) == seeds(1)
