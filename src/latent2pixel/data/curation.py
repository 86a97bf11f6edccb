"""Curation: a scorer looks at every image, and only those that are good enough stay.

None disappears without a trace: the records of the others stay, with their scores and why they were left out.
"""

import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from latent2pixel.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Scorer = Callable[["Image", str], float]
"""From an image and its prompt to how good it is; higher is better."""


@dataclass(frozen=True, kw_only=True)
class Curation:
    """What is asked of an image.

    Raises:
        ConfigError: Nothing is asked, or a number is out of range.
    """

    scorer: Scorer
    threshold: float | None = None
    """Least score of an image that stays; None lets the best stay, however bad."""
    best_of: int = 1
    """Images made for each one that can stay."""

    def __post_init__(self) -> None:
        if self.best_of < 1 or (self.best_of == 1 and self.threshold is None):
            raise ConfigError(
                "The scorer has nothing to choose from",
                found=f"best of {self.best_of}, {'no' if self.threshold is None else 'a'} threshold",
                expected="best of 2 or more, or a threshold",
                fix="Set one of them.",
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(
                "The threshold is no number", found=self.threshold, expected="a number", fix="Choose another threshold."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What has to be the same for a folder's images to belong together."""
        name = f"{self.scorer.__module__}:{self.scorer.__qualname__}"
        return {"scorer": name, "threshold": self.threshold, "best_of": self.best_of}

    def score(self, image: "Image", prompt: str) -> float:
        """Return the score of an image.

        Raises:
            DataError: The scorer returns no number.
        """
        score = float(self.scorer(image, prompt))
        if not math.isfinite(score):
            raise DataError(
                "The scorer returns no number",
                found=f"{score} for an image of {prompt!r}",
                expected="a number, higher for better images",
                fix="Correct the scorer, then run the same command again: it goes on.",
            )
        return score

    def choose(
        self, records: Iterable[tuple[int, Mapping[str, Any]]]
    ) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """Return the records that stay, and the others with a ``reason``.

        Args:
            records: Place and record of each image, with its ``score``; those of one place stand together.
        """
        kept: list[Mapping[str, Any]] = []
        rejected: list[Mapping[str, Any]] = []
        for _, candidates in groupby(records, key=lambda pair: pair[0]):
            first, *others = sorted((record for _, record in candidates), key=lambda record: -record["score"])
            if self.threshold is None or first["score"] >= self.threshold:
                kept.append(first)
                rejected += [{**record, "reason": f"not the best of {self.best_of}"} for record in others]
            else:
                reason = f"score below {self.threshold:g}"
                rejected += [{**record, "reason": reason} for record in (first, *others)]
        return kept, rejected


def find_scorer(name: str) -> Scorer:
    """Return the function that ``package.module:function`` names.

    Raises:
        ConfigError: There is none.
    """
    try:
        scorer = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            "The scorer cannot be found",
            found=f"{name}: {error}",
            expected="package.module:function, importable from here",
            fix="Correct the name, or put the module's folder on PYTHONPATH.",
        ) from error
    if not callable(scorer):
        raise ConfigError(
            "The scorer is no function",
            found=f"{name}, a {type(scorer).__name__}",
            expected="a function of an image and its prompt",
            fix="Name a function.",
        )
    return scorer
