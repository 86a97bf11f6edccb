"""What needs all prompts of a round side by side: duplicates, openings that come too often, near-duplicates."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from latent2pixel.data.prompting.local_checks import Objection, opener
from latent2pixel.data.prompting.near_duplicates import near_duplicates
from latent2pixel.data.prompting.plan import Place
from latent2pixel.data.prompting.settings import PromptSettings

MAX_OPENER_SHARE = 0.01
"""Of all prompts that may begin alike."""
MIN_OPENERS = 3
"""Prompts that may begin alike in a small set."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A prompt for a place."""

    place: Place
    text: str
    round: int


@dataclass(frozen=True, kw_only=True)
class Rejected(Written):
    """A prompt that does not fill its place."""

    objection: Objection


class Funnel:
    """Keeps what no earlier prompt speaks against.

    Args:
        settings: Which checks apply.
        encoder: From texts to vectors; unused without a check for near-duplicates.
    """

    def __init__(self, settings: PromptSettings, encoder: Any) -> None:
        self._settings, self._encoder = settings, encoder
        self.kept: dict[int, Written] = {}
        """By the number of the place."""
        self._texts: dict[str, int] = {}
        self._openers: Counter[str] = Counter()

    def add(self, written: Sequence[Written]) -> list[Rejected]:
        """Keep the prompts of a round that may stay, in the order of their places; return the others."""
        ordered = sorted(written, key=lambda one: one.place.number)
        rejected = list(self._add_distinct(ordered))
        if self._settings.near_duplicates:
            rejected += self._near_duplicates({one.place.number for one in ordered})
        return rejected

    def _add_distinct(self, written: Sequence[Written]) -> Iterator[Rejected]:
        most = max(MIN_OPENERS, int(self._settings.num * MAX_OPENER_SHARE))
        for one in written:
            key = _words_of(one.text)
            begins = opener(one.text, one.place.language)
            if key in self._texts:
                yield _rejected(one, "duplicate", f"the same as {self._texts[key]:06d}")
            elif self._settings.check_openers and self._openers[begins] >= most:
                yield _rejected(one, "format", f"{most} prompts begin with {begins!r} already")
            else:
                self._texts[key] = one.place.number
                self._openers[begins] += 1
                self.kept[one.place.number] = one

    def _near_duplicates(self, new: set[int]) -> Iterator[Rejected]:
        named = {number: (f"{number:06d}", one.text) for number, one in sorted(self.kept.items())}
        alike = near_duplicates(
            [pair for number, pair in named.items() if number not in new],
            [pair for number, pair in named.items() if number in new],
            encoder=self._encoder,
            threshold=self._settings.near_duplicates,
        )
        for name, (other, similarity) in alike.items():
            one = self.kept.pop(int(name))
            self._openers[opener(one.text, one.place.language)] -= 1
            del self._texts[_words_of(one.text)]
            yield _rejected(one, "near_duplicate", f"like {other}, similarity {similarity:.2f}")


def alike_openers(written: Sequence[Written]) -> tuple[list[Written], list[Rejected]]:
    """Split the prompts of one batch into those that begin anew and those that begin like an earlier one."""
    first: dict[str, Written] = {}
    rejected = []
    for one in written:
        begins = opener(one.text, one.place.language)
        if begins in first:
            reason = f"begins with {begins!r}, like {first[begins].place.number:06d} of the same reply"
            rejected.append(_rejected(one, "format", reason))
        else:
            first[begins] = one
    return list(first.values()), rejected


def _words_of(text: str) -> str:
    """Return what duplicates have in common: the words, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _rejected(one: Written, stage: str, reason: str) -> Rejected:
    return Rejected(place=one.place, text=one.text, round=one.round, objection=Objection(stage=stage, reason=reason))
