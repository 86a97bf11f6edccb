"""Scores of pictures against their captions, each with its sample count, standard error and chance baseline."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent2pixel.errors import DataError
from latent2pixel.io.images import bytes_of, load_image
from latent2pixel.io.records import read_records
from latent2pixel.world.captions import TASKS, Caption, captions
from latent2pixel.world.levels import Level
from latent2pixel.world.verify import verify

NUM_SHUFFLES = 5
"""Shuffled pairings behind one chance baseline: its own error is then below that of the score."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """Share of right pictures in one task."""

    score: float
    standard_error: float
    chance: float
    num_images: int
    num_captions: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """GenEval's score: the unweighted mean over the tasks of the share of right pictures."""

    score: float
    standard_error: float
    """Of the mean, over captions: pictures of one caption are not independent."""
    chance: float
    """Score of the same pictures against shuffled captions of the same task."""
    num_images: int
    num_captions: int
    tasks: dict[str, TaskScore]

    def as_record(self) -> dict[str, Any]:
        """Return the score as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.score:.3f} +- {self.standard_error:.3f} (chance {self.chance:.3f}; "
            f"{self.num_images} images, {self.num_captions} captions)"
        )


def score_images(images: Sequence[NDArray[np.uint8]], wanted: Sequence[Caption]) -> Score:
    """Score pictures against the captions they were made for.

    Args:
        images: sRGB bytes, each of shape (H, W, 3).
        wanted: One caption a picture; the same caption may come several times.

    Raises:
        DataError: The numbers differ, or there is nothing to score.
    """
    if len(images) != len(wanted) or not images:
        raise DataError(
            "pictures and captions do not pair up",
            found=f"{len(images)} pictures and {len(wanted)} captions",
            expected="one caption for each picture, at least one",
            fix="check that every picture has its line in metadata.jsonl",
        )
    tasks = {}
    for task in TASKS:
        chosen = [index for index, caption in enumerate(wanted) if caption.task == task]
        if chosen:
            tasks[task] = _score_task([images[i] for i in chosen], [wanted[i] for i in chosen])
    return Score(
        score=float(np.mean([part.score for part in tasks.values()])),
        standard_error=math.sqrt(sum(part.standard_error**2 for part in tasks.values())) / len(tasks),
        chance=float(np.mean([part.chance for part in tasks.values()])),
        num_images=len(images),
        num_captions=len({caption.text for caption in wanted}),
        tasks=tasks,
    )


def score_folder(folder: Path, level: Level) -> Score:
    """Score a folder of pictures.

    Args:
        folder: Holds ``metadata.jsonl`` (file_name, prompt), itself or in its sub-folders.
        level: Level of the world that the prompts are captions of.

    Raises:
        DataError: There are no pictures, one cannot be read, or a prompt is no caption of the level.
    """
    images, wanted = [], []
    for file in sorted({*folder.glob("metadata.jsonl"), *folder.glob("*/metadata.jsonl")}):
        for record in read_records(file):
            wanted.append(caption_of(level, str(record.get("prompt"))))
            images.append(bytes_of(load_image(file.parent / str(record.get("file_name")))))
    return score_images(images, wanted)


def caption_of(level: Level, text: str) -> Caption:
    """Return the world's caption of that text.

    Raises:
        DataError: The level cannot say this sentence.
    """
    found = _captions_by_text(level).get(text)
    if found is None:
        raise DataError(
            "this prompt is no caption of the miniature world, so its picture cannot be verified",
            found=repr(text),
            expected=f"a caption of level {level.name}, such as 'a red circle to the left of a blue square'",
            fix="score pictures made from `l2p world captions`, or use another evaluation",
        )
    return found


@cache
def _captions_by_text(level: Level) -> dict[str, Caption]:
    return {
        caption.text: caption
        for task in TASKS
        for split in ("train", "heldout")
        for caption in captions(level, task, split)
    }


def _score_task(images: list[NDArray[np.uint8]], wanted: list[Caption]) -> TaskScore:
    hits: dict[str, list[bool]] = {}
    for image, caption in zip(images, wanted, strict=True):
        hits.setdefault(caption.text, []).append(verify(image, caption))
    means = [float(np.mean(verdicts)) for verdicts in hits.values()]
    spread = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else float("nan")
    return TaskScore(
        score=float(np.mean([verdict for verdicts in hits.values() for verdict in verdicts])),
        standard_error=spread,
        chance=_chance(images, wanted),
        num_images=len(images),
        num_captions=len(hits),
    )


def _chance(images: list[NDArray[np.uint8]], wanted: list[Caption]) -> float:
    """Return the score of the pictures against the captions of other pictures of the same task.

    Pairs by rotating the list, so that every picture and every caption counts equally often.
    """
    texts = sorted({caption.text for caption in wanted})
    others = {caption.text: caption for caption in wanted}
    shifts = [1 + k * max(1, (len(texts) - 1) // NUM_SHUFFLES) for k in range(NUM_SHUFFLES)]
    shifts = sorted({shift for shift in shifts if shift < len(texts)})
    if not shifts:
        return float("nan")
    position = {text: index for index, text in enumerate(texts)}
    verdicts = [
        verify(image, others[texts[(position[caption.text] + shift) % len(texts)]])
        for shift in shifts
        for image, caption in zip(images, wanted, strict=True)
    ]
    return float(np.mean(verdicts))
