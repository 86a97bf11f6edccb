"""Bootstrap over prompts, retention, spread over runs."""

import math

import pytest
import torch

from latent2pixel.errors import DataError
from latent2pixel.evaluate.uncertainty import bootstrap_mean, mean_of_tasks, over_runs, retention, retention_of_tasks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(num, seed=0):
    return torch.randn(num, generator=generator(seed), dtype=torch.float64)


def test_interval_of_a_mean_is_that_of_theory():
    """One image a prompt: the standard error is the standard deviation over the root of the number."""
    values_N = 5 + normal(300)
    estimate = bootstrap_mean(values_N.tolist(), [str(index) for index in range(300)], generator=generator(1))
    error = values_N.std(correction=0).item() / math.sqrt(300)
    assert estimate.value == pytest.approx(values_N.mean().item())
    assert estimate.standard_error == pytest.approx(error, rel=0.06)
    assert estimate.low == pytest.approx(estimate.value - 1.96 * error, abs=0.25 * error)
    assert estimate.high == pytest.approx(estimate.value + 1.96 * error, abs=0.25 * error)


def test_seeds_of_one_prompt_are_no_evidence_of_their_own():
    """Four equal images a prompt: the interval is that of the prompts, not half as wide."""
    values_P = normal(200).tolist()
    names = [str(index) for index in range(200)]
    single = bootstrap_mean(values_P, names, generator=generator(1))
    fourfold = bootstrap_mean(values_P * 4, names * 4, generator=generator(1))
    assert fourfold.standard_error == pytest.approx(single.standard_error)
    assert (fourfold.num_images, fourfold.num_prompts) == (800, 200)


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = 0
    for seed in range(200):
        prompt_P, image_N = normal(40, seed=seed), normal(80, seed=1000 + seed)
        values_N = prompt_P.repeat_interleave(2) + 0.5 * image_N
        names = [str(index // 2) for index in range(80)]
        estimate = bootstrap_mean(values_N.tolist(), names, generator=generator(seed))
        hits += estimate.low <= 0 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.98


def test_order_of_the_images_has_no_meaning_and_the_generator_decides():
    values, names = normal(30).tolist(), [str(index % 10) for index in range(30)]
    one = bootstrap_mean(values, names, generator=generator(4))
    turned = bootstrap_mean(values[::-1], names[::-1], generator=generator(4))
    other = bootstrap_mean(values, names, generator=generator(5))
    assert turned.low == pytest.approx(one.low)
    assert turned.standard_error == pytest.approx(one.standard_error)
    assert other.low != one.low


def test_retention_is_pixel_over_source_and_paired():
    """Prompts differ by far more than the models: unpaired, the interval would be a hundred times as wide."""
    source_N = 10 + 4 * normal(100).clamp(-2, 2)
    pixel_N = 0.8 * source_N + 0.01 * normal(100, seed=1)
    names = [str(index) for index in range(100)]
    estimate = retention(source_N.tolist(), pixel_N.tolist(), names, generator=generator())
    assert estimate.value == pytest.approx(pixel_N.sum().item() / source_N.sum().item())
    assert estimate.value == pytest.approx(0.8, abs=0.001)
    assert 0 < estimate.high - estimate.low < 0.002
    assert estimate.low < estimate.value < estimate.high


def test_retention_without_a_source_score_is_no_number():
    names = ["a", "b"]
    nothing = retention([0.0, 0.0], [1.0, 0.0], names, generator=generator())
    assert (nothing.value, nothing.low, nothing.num_undefined) == (None, None, 2000)
    half = retention([0.0, 1.0], [0.0, 1.0], names, generator=generator())
    assert half.value == half.low == half.high == 1
    assert half.num_undefined == pytest.approx(500, abs=80)  # both draws the first prompt: a quarter


def test_retention_of_tasks_is_a_macro_mean():
    """Task b has three times the prompts, and the same weight."""
    source = [1.0, 1.0] + [1.0, 0.0] * 3
    pixel = [0.5, 0.5] + [1.0, 0.0] * 3
    tasks = ["a"] * 2 + ["b"] * 6
    names = [str(index) for index in range(8)]
    by_task, score = retention_of_tasks(source, pixel, names, tasks, generator=generator())
    assert list(by_task) == ["a", "b"]
    assert by_task["a"].value == by_task["a"].low == by_task["a"].high == 0.5
    assert by_task["b"].value == 1
    assert score.value == pytest.approx((0.5 + 0.5) / (1 + 0.5))
    assert score.low < score.value < score.high
    assert score.num_images == 8


def test_mean_of_tasks_weighs_tasks_alike_and_draws_within_them():
    """Task b has three times the prompts; errors of independent tasks add up by squares."""
    values = [1.0, 0.0, 1.0, 1.0] + [0.25, 0.75] * 6
    tasks = ["a"] * 4 + ["b"] * 12
    names = [str(index) for index in range(16)]
    by_task, score = mean_of_tasks(values, names, tasks, generator=generator())
    assert (by_task["a"].value, by_task["b"].value, score.value) == (0.75, 0.5, 0.625)
    assert by_task["a"] == bootstrap_mean(values[:4], names[:4], generator=generator())
    expected = math.hypot(by_task["a"].standard_error, by_task["b"].standard_error) / 2
    assert score.standard_error == pytest.approx(expected, rel=0.05)
    assert score.low < score.value < score.high
    assert (score.num_images, score.num_prompts) == (16, 16)


def test_spread_over_runs():
    assert over_runs([0.97, 0.94, 0.83]) == {
        "mean": pytest.approx(0.91333, abs=1e-5),
        "standard_deviation": pytest.approx(0.07371, abs=1e-5),
        "num_runs": 3,
        "runs": [0.97, 0.94, 0.83],
    }
    assert over_runs([0.5])["standard_deviation"] is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_mean([], [], generator=generator()),
        lambda: bootstrap_mean([1.0, math.nan], ["a", "b"], generator=generator()),
        lambda: retention([1.0], [math.inf], ["a"], generator=generator()),
        lambda: over_runs([]),
        lambda: mean_of_tasks([], [], [], generator=generator()),
    ],
)
def test_what_is_no_number_is_refused(call):
    with pytest.raises(DataError, match="no mean"):
        call()


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="1 and 2"):
        bootstrap_mean([1.0], ["a", "b"], generator=generator())
    with pytest.raises(DataError, match="do not pair up"):
        retention_of_tasks([1.0, 1.0], [1.0, 1.0], ["a", "b"], ["t"], generator=generator())
