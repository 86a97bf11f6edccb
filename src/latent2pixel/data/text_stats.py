"""What the texts of a set look like as a whole: lengths, duplicates, languages, how they begin."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

BAND = (200, 350)
"""Characters between which the lengths of the paper's prompts peak (section 3.2, figure 10)."""
BIN_CHARACTERS = 25
"""Width of a bar: six of them fill the band."""
LAST_BIN = 1000
"""What is longer counts here, so that one stray text does not flatten the picture."""
OPENER_WORDS, OPENER_CHARACTERS = 3, 4
"""What counts as the beginning of a text; characters for Chinese, which has no spaces."""
MAX_OPENERS = 10


@dataclass(frozen=True, kw_only=True)
class Opener:
    """A beginning that several texts share."""

    text: str
    count: int
    share: float
    """Of all texts."""


@dataclass(frozen=True, kw_only=True)
class TextStats:
    """Texts as a whole."""

    count: int
    shortest: int
    """Characters, as are all lengths."""
    median: float
    mean: float
    longest: int
    in_band: float
    """Share of texts of 200 to 350 characters."""
    lengths: list[tuple[int, int]]
    """First length of each bar of 25 characters, number of texts; the last one holds all longer ones."""
    duplicates: int
    """Texts that repeat an earlier one but for case, spaces and punctuation."""
    duplicate_rate: float
    languages: dict[str, int]
    kinds: dict[str, int]
    openers: list[Opener]
    """Beginnings of at least two texts, the most frequent first."""


def text_stats(texts: Sequence[str], *, languages: Sequence[str], kinds: Sequence[str]) -> TextStats:
    """Return what texts look like as a whole.

    Args:
        texts: Any number, none too.
        languages: Of each text.
        kinds: Of each text.
    """
    lengths = [len(text) for text in texts] or [0]
    bars = Counter(min(length // BIN_CHARACTERS * BIN_CHARACTERS, LAST_BIN) for length in map(len, texts))
    count = len(texts)
    duplicates = count - len({_normalised(text) for text in texts})
    openers = Counter(_opener(text) for text in texts)
    frequent = sorted(openers.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_OPENERS]
    return TextStats(
        count=count,
        shortest=min(lengths),
        median=statistics.median(lengths),
        mean=round(statistics.fmean(lengths), 1),
        longest=max(lengths),
        in_band=sum(BAND[0] <= length <= BAND[1] for length in lengths) / max(count, 1),
        lengths=[(first, bars[first]) for first in range(0, max(bars, default=0) + 1, BIN_CHARACTERS)],
        duplicates=duplicates,
        duplicate_rate=duplicates / max(count, 1),
        languages=dict(Counter(languages).most_common()),
        kinds=dict(Counter(kinds).most_common()),
        openers=[Opener(text=text, count=num, share=num / count) for text, num in frequent if num > 1],
    )


def _normalised(text: str) -> str:
    return re.sub(r"[^\w]+", " ", text.lower()).strip()


def _opener(text: str) -> str:
    words = text.split()[:OPENER_WORDS]
    if words and re.match(r"[\u3400-\u9fff]", words[0]):
        return text.strip()[:OPENER_CHARACTERS]
    return " ".join(words).lower()
