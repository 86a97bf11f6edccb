"""The order of images is a function of seed and step, and fair."""

from collections import Counter

import numpy as np
import pytest
import torch

from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.seeds import step_generator

WIDE, TALL, SQUARE = (32, 48), (48, 32), (32, 32)


def seen(plan, steps):
    return [image for step in range(steps) for image in plan.images(step)]


def shuffled(num_images, count, seed):
    """By hand: one permutation behind the other."""
    orders = [
        torch.randperm(num_images, generator=step_generator(seed, epoch)).tolist()
        for epoch in range(count // num_images + 1)
    ]
    return [image for order in orders for image in order][:count]


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (7, 7), (3, 8), (1, 2), (50, 8)])
def test_one_bucket_and_equal_weights_are_plain_shuffling(num_images, batch_size):
    for seed in (0, 3):
        plan = BatchPlan([SQUARE] * num_images, batch_size=batch_size, seed=seed)
        images = seen(plan, 200)
        assert images == shuffled(num_images, 200 * batch_size, seed)
        first, second = images[:num_images], images[num_images : 2 * num_images]
        assert sorted(first) == sorted(second) == list(range(num_images))
        assert first != second or num_images < 7  # shorter orders may be equal by chance
        assert plan.images(30) == images[30 * batch_size : 31 * batch_size]


def test_batches_hold_one_bucket_and_every_epoch_every_image():
    """Whole batches in each bucket: every five steps are an epoch."""
    buckets = [WIDE] * 4 + [TALL] * 8 + [SQUARE] * 8
    plan, orders = BatchPlan(buckets, batch_size=4, seed=1), []
    for epoch in range(6):
        batches = [plan.images(step) for step in range(5 * epoch, 5 * epoch + 5)]
        assert all(len({buckets[image] for image in batch}) == 1 for batch in batches)
        assert sorted(image for batch in batches for image in batch) == list(range(20))
        orders.append([buckets[batch[0]] for batch in batches])
    assert len({tuple(order) for order in orders}) > 1


def test_small_and_uneven_buckets_run_on_across_epochs():
    buckets = [WIDE] * 3 + [TALL] * 5 + [SQUARE] * 13
    plan = BatchPlan(buckets, batch_size=8, seed=0)
    shown = Counter()
    for step in range(21 * 20 // 8 + 1):
        shown.update(plan.images(step))
        epochs = (step + 1) * 8 / 21
        # a bucket lags by less than a batch, and may be ahead within the epoch by its part of it
        for image, bucket in enumerate(buckets):
            slack = 1 + 8 / buckets.count(bucket)
            assert abs(shown[image] - epochs) <= slack + 1
    for bucket in (WIDE, TALL, SQUARE):
        counts = [shown[image] for image, other in enumerate(buckets) if other == bucket]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("buckets", [[SQUARE] * 6, [SQUARE] * 2 + [TALL] * 4])
def test_weights_are_kept_on_average_and_by_less_than_one_image(buckets):
    weights = [1.0, 0.25, 2.0, 3.5, 0.05, 1.0]
    plan = BatchPlan(buckets, weights, batch_size=3, seed=5)
    steps = 200
    epochs = steps * 3 / sum(weights)
    shown = Counter(seen(plan, steps))
    for image, weight in enumerate(weights):
        bucket = sum(weight for weight, other in zip(weights, buckets, strict=True) if other == buckets[image])
        slack = 3 * weight / bucket + weight + 2  # a batch of the bucket, an epoch under way, the phase
        assert abs(shown[image] - weight * epochs) <= slack
    assert shown[3] > 100 > shown[4] > 0


def test_rare_images_come_at_different_times():
    plan = BatchPlan([SQUARE] * 101, [1.0] + [0.01] * 100, batch_size=1, seed=0)
    rare = [step for step in range(200) if plan.images(step)[0] != 0]
    assert len(rare) == pytest.approx(100, abs=15)
    assert np.diff(rare).max() < 20


def test_any_step_can_be_asked_for_in_any_order():
    settings = {"batch_size": 4, "seed": 2}
    buckets, weights = [WIDE] * 5 + [TALL] * 9, [0.5, 1.0, 2.0, 1.0, 1.5, *[1.0] * 8, 0.1]
    whole = BatchPlan(buckets, weights, **settings)
    in_order = [whole.images(step) for step in range(60)]
    assert [BatchPlan(buckets, weights, **settings).images(step) for step in (59, 0, 31)] == [
        in_order[step] for step in (59, 0, 31)
    ]
    backwards = BatchPlan(buckets, weights, **settings)
    assert [backwards.images(step) for step in reversed(range(60))] == in_order[::-1]
    assert [BatchPlan(buckets, weights, batch_size=4, seed=3).images(step) for step in range(60)] != in_order


def test_streams_of_one_length_are_shuffled_apart():
    """Two buckets with pictures of the same prompts must not bring them in the same order."""
    plan = BatchPlan([WIDE] * 30 + [TALL] * 30, batch_size=30, seed=0)
    first, second = (plan.images(step) for step in range(2))
    assert {min(first), min(second)} == {0, 30}
    assert [image % 30 for image in first] != [image % 30 for image in second]


def test_alternatives_are_the_images_of_the_bucket():
    plan = BatchPlan([WIDE, TALL, WIDE, SQUARE], batch_size=2, seed=0)
    assert plan.alternatives(2).tolist() == [0, 2]
    assert plan.alternatives(3).tolist() == [3]
