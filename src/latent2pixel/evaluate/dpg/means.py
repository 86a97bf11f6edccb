"""From the scores of pictures to DPG-Bench's numbers, in percent as they are published."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from latent2pixel.evaluate.dpg.rules import PictureScore
from latent2pixel.evaluate.ratio_mean import ratio_mean

PERCENT = 100.0


@dataclass(frozen=True, kw_only=True)
class CategoryMean:
    """Share of questions of one category that count as "yes"."""

    score: float
    """In [0, 100]."""
    standard_error: float | None
    """Over prompts; None for a single one."""
    num_answers: int


@dataclass(frozen=True, kw_only=True)
class DPGScore:
    """The numbers of a folder by one set of rules."""

    key: str
    """Set of prompts, judge and rules, such as "dpg/mplug-modelscope/official"; other keys are other benchmarks."""
    score: float | None
    """Plain mean over prompts, however many questions each has, in [0, 100]; None without a picture."""
    standard_error: float | None
    """Over prompts; None for fewer than two."""
    num_prompts: int
    """That are in the mean."""
    groups: dict[str, CategoryMean]
    """The first level: attribute, entity, global, other, relation."""
    categories: dict[str, CategoryMean]
    """The second level, such as "attribute - color"."""
    dropped: tuple[str, ...]
    """Pictures that these rules leave out of every mean, and why."""


def dpg_score(pictures: Mapping[str, PictureScore], *, key: str, dropped: Mapping[str, str]) -> DPGScore:
    """Return the means over pictures.

    Args:
        pictures: Score of each by its item.
        key: What the result may be compared under.
        dropped: Items of pictures that the rules leave out, with the reason.
    """
    means = [picture.mean for picture in pictures.values()]
    return DPGScore(
        key=key,
        score=PERCENT * sum(means) / len(means) if means else None,
        standard_error=_standard_error(means),
        num_prompts=len(means),
        groups=_category_means(pictures, level=1),
        categories=_category_means(pictures, level=2),
        dropped=tuple(f"{item}: {reason}" for item, reason in dropped.items()),
    )


def _standard_error(means: list[float]) -> float | None:
    if len(means) < 2:
        return None
    mean = sum(means) / len(means)
    variance = sum((value - mean) ** 2 for value in means) / (len(means) - 1)
    return PERCENT * math.sqrt(variance / len(means))


def _category_means(pictures: Mapping[str, PictureScore], *, level: int) -> dict[str, CategoryMean]:
    answers: dict[str, dict[str, list[bool]]] = {}
    for item, picture in pictures.items():
        for category, counts in picture.categories:
            name = category.split("-")[0].strip() if level == 1 else category
            answers.setdefault(name, {}).setdefault(item, []).append(counts)
    return {name: _mean(list(answers[name].values())) for name in sorted(answers)}


def _mean(prompts: list[list[bool]]) -> CategoryMean:
    score, error = ratio_mean(prompts)
    return CategoryMean(
        score=PERCENT * score,
        standard_error=None if error is None else PERCENT * error,
        num_answers=sum(map(len, prompts)),
    )
