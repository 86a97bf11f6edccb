"""Captions of the world: every sentence a level can say, split into disjoint train and held-out halves."""

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from latent2pixel.errors import ConfigError
from latent2pixel.world.levels import Level

Split = Literal["train", "heldout"]

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's six task types (Ghosh et al. 2023, "GenEval", table 1)."""

RELATIONS: dict[str, tuple[int, int]] = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Relation phrase to the direction (x right, y down) from the second object to the first."""

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
SIZES = ("small", "large")
OPENERS = (
    "",
    "a photo of ",
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "a painting of ",
    "an illustration of ",
    "a print of ",
)
"""Sentence openers without meaning for the picture: they let even ``single_object`` have held-out captions."""

HELDOUT_SHARE = 3
"""One caption in three is held out: enough that each task of the easiest level has 50 of them."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One kind of object that a caption asks for."""

    shape: str
    color: str | None = None
    count: int = 1
    size: str | None = None
    pattern: str | None = None

    def phrase(self) -> str:
        """Return the noun phrase, such as "a small red circle" or "three squares"."""
        words = [word for word in (self.size, self.pattern, self.color) if word]
        if self.count > 1:
            plural = "crosses" if self.shape == "cross" else self.shape + "s"
            return " ".join([NUMBERS[self.count], *words, plural])
        noun = " ".join([*words, self.shape])
        return ("an " if noun[0] in "aeiou" else "a ") + noun


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A sentence and what it demands of a picture."""

    text: str
    task: str
    requests: tuple[Request, ...]
    relation: str | None = None
    background: str | None = None


def is_heldout(text: str) -> bool:
    """Return whether a caption belongs to the held-out half; decided by its text alone, the same in every process."""
    return hashlib.sha256(text.encode()).digest()[0] % HELDOUT_SHARE == 0


@cache
def captions(level: Level, task: str, split: Split) -> tuple[Caption, ...]:
    """Return every caption of one task and split, in a fixed order."""
    found = []
    for requests, relation in _contents(level, task):
        for opener, background in itertools.product(OPENERS, (None, *level.backgrounds)):
            text = opener + f" {relation or 'and'} ".join(request.phrase() for request in requests)
            if background:
                text += f" on a {background} background"
            if is_heldout(text) == (split == "heldout"):
                found.append(Caption(text=text, task=task, requests=requests, relation=relation, background=background))
    return tuple(found)


def draw_caption(level: Level, split: Split, *, generator: random.Random, task: str | None = None) -> Caption:
    """Draw one caption: a task uniformly (unless given), then one of its captions uniformly."""
    task = task or generator.choice(TASKS)
    return generator.choice(captions(level, task, split))


def heldout_captions(level: Level, num: int, *, seed: int = 0) -> list[Caption]:
    """Draw held-out captions for a score, see ``draw_captions``."""
    return draw_captions(level, "heldout", num, seed=seed)


def draw_captions(level: Level, split: Split, num: int, *, seed: int) -> list[Caption]:
    """Draw captions: as many of each task as possible, distinct while a task has enough.

    Args:
        level: Level of the world.
        split: Half to draw from.
        num: Number of captions; a multiple of six gives equal tasks.
        seed: Seed of the draw.
    """
    generator = random.Random(seed)
    decks: dict[str, list[Caption]] = {task: [] for task in TASKS}
    drawn = []
    for task, _ in zip(itertools.cycle(TASKS), range(num), strict=False):
        if not decks[task]:
            decks[task] = list(captions(level, task, split))
            generator.shuffle(decks[task])
        drawn.append(decks[task].pop())
    return drawn


def require_split(name: str) -> Split:
    """Return the split of that name.

    Raises:
        ConfigError: No such split.
    """
    splits: dict[str, Split] = {"train": "train", "heldout": "heldout"}
    if name in splits:
        return splits[name]
    raise ConfigError(
        "There is no split of that name",
        found=repr(name),
        expected="train or heldout",
        fix="Choose one of the two.",
    )


def _contents(level: Level, task: str) -> Iterator[tuple[tuple[Request, ...], str | None]]:
    """Yield (requests, relation) of a task, without openers and backgrounds."""
    patterns = (None, *level.patterns[1:])
    if task in ("single_object", "colors"):
        colors = level.colors if task == "colors" else (None,)
        for shape, color, size, pattern in itertools.product(level.shapes, colors, (None, *SIZES), patterns):
            yield (Request(shape=shape, color=color, size=size, pattern=pattern),), None
    elif task == "counting":
        for shape, count in itertools.product(level.shapes, range(2, level.max_objects + 1)):
            yield (Request(shape=shape, count=count),), None
    elif task in ("two_object", "position"):
        relations = tuple(RELATIONS) if task == "position" else (None,)
        for (a, b), relation in itertools.product(itertools.permutations(level.shapes, 2), relations):
            yield (Request(shape=a), Request(shape=b)), relation
    elif task == "color_attr":
        pairs = itertools.product(itertools.permutations(level.shapes, 2), itertools.permutations(level.colors, 2))
        for (a, b), (color_a, color_b) in pairs:
            yield (Request(shape=a, color=color_a), Request(shape=b, color=color_b)), None
