"""Shares of the classes in a set, beside what its taxonomy wants."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel.config import load_yaml

ClassKey = tuple[str, str]
"""Major class and sub-class."""


@dataclass(frozen=True, kw_only=True)
class ClassShare:
    """One sub-class."""

    major_class: str
    sub_class: str
    prompts: int
    images: int
    share: float
    """Of all prompts."""
    target: float | None
    """Share that the taxonomy wants; None without one."""


def class_shares(
    prompts: Mapping[ClassKey, int], *, images: Mapping[ClassKey, int], targets: Path | None
) -> list[ClassShare]:
    """Return all classes, those of a major class together, the largest first.

    Args:
        prompts: How many there are of each class.
        images: The same of the images; not necessarily of the same classes.
        targets: A taxonomy, which need not exist: classes with their share among their neighbours, 1 if they have none.

    Raises:
        ConfigError: The taxonomy cannot be read.
    """
    wanted = _targets(load_yaml(targets)) if targets is not None and targets.exists() else {}
    total = sum(prompts.values())
    of_major: dict[str, int] = {}
    for (major, _), count in prompts.items():
        of_major[major] = of_major.get(major, 0) + count
    keys = {*prompts, *images, *wanted}
    ordered = sorted(keys, key=lambda key: (-of_major.get(key[0], 0), key[0], -prompts.get(key, 0), key[1]))
    return [
        ClassShare(
            major_class=key[0],
            sub_class=key[1],
            prompts=prompts.get(key, 0),
            images=images.get(key, 0),
            share=prompts.get(key, 0) / total if total else 0.0,
            target=wanted.get(key, 0.0) if wanted else None,
        )
        for key in ordered
    ]


def _targets(taxonomy: Mapping[str, Any]) -> dict[ClassKey, float]:
    """Return the share of each sub-class in the whole."""
    majors = taxonomy.get("classes") or []
    sum_of_majors = sum(major.get("share", 1) for major in majors)
    targets = {}
    for major in majors:
        subs = major.get("sub_classes") or []
        sum_of_subs = sum(sub.get("share", 1) for sub in subs)
        for sub in subs:
            if sum_of_majors and sum_of_subs:
                share = major.get("share", 1) / sum_of_majors * sub.get("share", 1) / sum_of_subs
                targets[str(major.get("name")), str(sub.get("name"))] = share
    return targets
