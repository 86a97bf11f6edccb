"""How far a score can be trusted: bootstrap over prompts, spread over runs, retention.

Shape letters: N images, P prompts, K sums, R resamples.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent2pixel.errors import DataError

NUM_RESAMPLES = 2000
"""The 2.5 % points then come to within 0.03 standard errors or so of those of endlessly many resamples."""
LEVEL = 0.95
"""Share of repetitions of the whole evaluation whose interval should hold the true value."""
BLOCK = 64
"""Resamples at a time: 64 x 20000 prompts in float64 are 10 MB."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval over prompts."""

    value: float | None
    """From the images as they are; None where a ratio's denominator is 0."""
    low: float | None
    """2.5 % point of the resamples."""
    high: float | None
    """97.5 % point of the resamples."""
    standard_error: float | None
    """Standard deviation of the resamples."""
    num_images: int
    """Images, or pairs of them, behind the number."""
    num_prompts: int
    """Prompts, the units that were drawn again; an interval from a handful is too narrow."""
    num_undefined: int = 0
    """Resamples without a value, left out of the interval: a ratio's denominator was 0."""


def bootstrap_mean(values: Sequence[float], prompts: Sequence[str], *, generator: torch.Generator) -> Estimate:
    """Return the mean over images, with an interval from drawing prompts again.

    Prompts, not images: images of one prompt succeed and fail together, so drawing single ones again would pretend
    that four seeds of a prompt are four pieces of evidence.

    Args:
        values: One score for each image.
        prompts: Prompt of each image.
        generator: Of the draws.

    Raises:
        DataError: No values, one that is no number, or not one prompt for each.

    Source:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", percentile intervals (chapter 13).
    """
    sums_P2 = _sums([values], prompts)
    drawn_R2 = _resample(sums_P2, generator=generator)
    total_2 = sums_P2.sum(0)
    return _estimate(total_2[0] / total_2[1], drawn_R2[:, 0] / drawn_R2[:, 1], sums_P2)


def retention(
    source: Sequence[float], pixel: Sequence[float], prompts: Sequence[str], *, generator: torch.Generator
) -> Estimate:
    """Return the pixel model's mean over the source's, with a paired interval.

    Paired: a resample holds the same prompts for both. A hard prompt is hard for both, and falls out of the ratio.

    Args:
        source: Score of the source's image of each pair.
        pixel: Score of the pixel model's.
        prompts: Prompt of each pair.
        generator: Of the draws.

    Raises:
        DataError: No values, one that is no number, or not one of each for every pair.
    """
    sums_P3 = _sums([source, pixel], prompts)
    drawn_R3 = _resample(sums_P3, generator=generator)
    total_3 = sums_P3.sum(0)
    return _estimate(total_3[1] / total_3[0], drawn_R3[:, 1] / drawn_R3[:, 0], sums_P3)


def retention_of_tasks(
    source: Sequence[float],
    pixel: Sequence[float],
    prompts: Sequence[str],
    tasks: Sequence[str],
    *,
    generator: torch.Generator,
) -> tuple[dict[str, Estimate], Estimate]:
    """Return the retention of each task, and that of the score, which is the plain mean of the tasks' means.

    Resamples are drawn within each task: how many prompts a task has is part of the benchmark, not of chance.

    Args:
        source: Score of the source's image of each pair.
        pixel: Score of the pixel model's.
        prompts: Prompt of each pair.
        tasks: Task of each pair.
        generator: Of the draws.

    Raises:
        DataError: No values, one that is no number, or not one of each for every pair.
    """
    _require_equal_lengths(len(tasks), [source, pixel, prompts])
    by_task: dict[str, Estimate] = {}
    parts, totals, drawn = [], [], []
    for task in sorted(set(tasks)):
        chosen = [index for index, name in enumerate(tasks) if name == task]
        columns = [[values[index] for index in chosen] for values in (source, pixel)]
        sums_P3 = _sums(columns, [prompts[index] for index in chosen])
        drawn_R3, total_3 = _resample(sums_P3, generator=generator), sums_P3.sum(0)
        by_task[task] = _estimate(total_3[1] / total_3[0], drawn_R3[:, 1] / drawn_R3[:, 0], sums_P3)
        parts.append(sums_P3)
        totals.append(total_3[:2] / total_3[2])
        drawn.append(drawn_R3[:, :2] / drawn_R3[:, 2:])
    total_2, drawn_R2 = torch.stack(totals).mean(0), torch.stack(drawn).mean(0)
    return by_task, _estimate(total_2[1] / total_2[0], drawn_R2[:, 1] / drawn_R2[:, 0], torch.cat(parts))


def mean_of_tasks(
    values: Sequence[float], prompts: Sequence[str], tasks: Sequence[str], *, generator: torch.Generator
) -> tuple[dict[str, Estimate], Estimate]:
    """Return the mean of each task, and the score, which is the plain mean of these; resamples within each task.

    Args:
        values: Score of each image.
        prompts: Prompt of each image.
        tasks: Task of each image.
        generator: Of the draws.

    Raises:
        DataError: No values, one that is no number, or not one of each for every image.
    """
    _require_equal_lengths(len(tasks), [values, prompts])
    _require_numbers(torch.tensor(values, dtype=torch.float64))
    by_task: dict[str, Estimate] = {}
    parts, totals, drawn = [], [], []
    for task in sorted(set(tasks)):
        chosen = [index for index, name in enumerate(tasks) if name == task]
        sums_P2 = _sums([[values[index] for index in chosen]], [prompts[index] for index in chosen])
        drawn_R2, total_2 = _resample(sums_P2, generator=generator), sums_P2.sum(0)
        parts.append(sums_P2)
        totals.append(total_2[0] / total_2[1])
        drawn.append(drawn_R2[:, 0] / drawn_R2[:, 1])
        by_task[task] = _estimate(totals[-1], drawn[-1], sums_P2)
    return by_task, _estimate(torch.stack(totals).mean(), torch.stack(drawn).mean(0), torch.cat(parts))


def over_runs(values: Sequence[float]) -> dict[str, object]:
    """Return mean and spread of one score over whole runs with different seeds.

    The standard deviation is that of runs (n - 1 in the denominator), not the error of their mean; None for one run.

    Raises:
        DataError: No runs, or one whose score is no number.
    """
    _require_numbers(torch.tensor(values, dtype=torch.float64))
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "num_runs": len(values),
        "runs": list(values),
    }


def _sums(columns: Sequence[Sequence[float]], prompts: Sequence[str]) -> Tensor:
    """Return the sums of each prompt's values, and behind them how many images it has, (P, K + 1)."""
    _require_equal_lengths(len(prompts), columns)
    values_NK = torch.tensor([list(column) for column in columns], dtype=torch.float64).T
    _require_numbers(values_NK)
    # In the order of their text: resamples must not depend on the order of the images.
    place = {prompt: index for index, prompt in enumerate(sorted(set(prompts)))}
    index_N = torch.tensor([place[prompt] for prompt in prompts])
    counted_NK = torch.cat([values_NK, values_NK.new_ones(len(values_NK), 1)], dim=1)
    return values_NK.new_zeros(len(place), counted_NK.shape[1]).index_add(0, index_N, counted_NK)


def _resample(sums_PK: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return the sums over prompts that are drawn with replacement, as many as there are, (R, K)."""
    num_prompts = len(sums_PK)
    blocks = []
    for start in range(0, NUM_RESAMPLES, BLOCK):
        shape = (min(BLOCK, NUM_RESAMPLES - start), num_prompts)
        drawn_RP = torch.randint(num_prompts, shape, generator=generator)
        times_RP = sums_PK.new_zeros(shape).scatter_add_(1, drawn_RP, sums_PK.new_ones(shape))
        blocks.append(times_RP @ sums_PK)
    return torch.cat(blocks)


def _estimate(value: Tensor, drawn_R: Tensor, sums_PK: Tensor) -> Estimate:
    defined_R = drawn_R[drawn_R.isfinite()]
    low, high = (None, None)
    if len(defined_R):
        tail = (1 - LEVEL) / 2
        low, high = (defined_R.quantile(share).item() for share in (tail, 1 - tail))
    return Estimate(
        value=value.item() if value.isfinite() else None,
        low=low,
        high=high,
        standard_error=defined_R.std().item() if len(defined_R) > 1 else None,
        num_images=int(sums_PK[:, -1].sum()),
        num_prompts=len(sums_PK),
        num_undefined=len(drawn_R) - len(defined_R),
    )


def _require_equal_lengths(length: int, columns: Sequence[Sequence[object]]) -> None:
    if any(len(column) != length for column in columns):
        raise DataError(
            "Scores and prompts do not pair up",
            found=f"{', '.join(str(len(column)) for column in columns)} and {length}",
            expected="one of each for every image",
            fix="Leave an image out of all of them, or of none.",
        )


def _require_numbers(values: Tensor) -> None:
    if not values.numel() or not values.isfinite().all():
        raise DataError(
            "There is no mean of these scores",
            found="no score at all" if not values.numel() else f"{int((~values.isfinite()).sum())} that are no number",
            expected="a finite number for each image, at least one",
            fix="Count images without a score as problems, and leave them out here.",
        )
