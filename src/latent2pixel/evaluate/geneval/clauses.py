"""Whether what was found in a picture is what its prompt asked for: pure functions on detections."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent2pixel.evaluate.geneval.names import COLOURS
from latent2pixel.evaluate.geneval.prompts import Clause, GenEvalPrompt
from latent2pixel.evaluate.geneval.relations import Box, relations

MIN_SCORE = 0.3
"""Score that a detection must exceed (the program's default; no overlapping ones are dropped, by its default too)."""
MIN_COUNTING_SCORE = 0.9
"""The same in the task "counting", where a doubtful extra object would spoil the count."""
MAX_OBJECTS = 16
"""Detections of one class that count at most, the surest ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detection:
    """One object that a detector found."""

    class_name: str
    """One of ``CLASSES``."""
    score: float
    """In [0, 1]."""
    box: Box
    """In pixels of the picture; right and bottom lie behind the last pixel."""
    mask_HW: NDArray[np.bool_]
    """Pixels of the object, of the picture's height and width."""


ColoursOf = Callable[[Sequence[Detection], str], list[str]]
"""From detections of one class in a picture to the colour of each; asked only where a clause names a colour."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a picture is right, and if not, why."""

    correct: bool
    reasons: tuple[str, ...]
    """In words, one a failed clause."""


def keep(detections: Iterable[Detection], *, task: str) -> dict[str, list[Detection]]:
    """Return the detections that count in a task by class, the surest first; classes without any are left out."""
    least = MIN_COUNTING_SCORE if task == "counting" else MIN_SCORE
    kept: dict[str, list[Detection]] = {}
    for detection in sorted((each for each in detections if each.score > least), key=lambda each: -each.score):
        same = kept.setdefault(detection.class_name, [])
        if len(same) < MAX_OBJECTS:
            same.append(detection)
    return kept


def judge_detections(
    kept: Mapping[str, Sequence[Detection]], prompt: GenEvalPrompt, *, colours_of: ColoursOf
) -> Verdict:
    """Judge a picture by what was found in it.

    Args:
        kept: Detections by class, the surest first, from ``keep``.
        prompt: What was asked for.
        colours_of: Names the colours of detections.

    Source:
        GenEval (arXiv 2310.11513), section 3; ``evaluate`` of its program: only the surest ``count`` objects of a
        clause are looked at, and a clause that failed is no target for a position.
    """
    reasons: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for clause in prompt.include:
        objects = kept.get(clause.class_name, ())[: clause.count]
        reason = _reason_against(objects, clause, matched, colours_of)
        reasons += [] if reason is None else [reason]
        matched.append(objects if reason is None else None)
    for clause in prompt.exclude:
        found = len(kept.get(clause.class_name, ()))
        if found >= clause.count:
            reasons.append(f"fewer than {clause.count} of {clause.class_name} wanted, {found} found")
    return Verdict(correct=not reasons, reasons=tuple(reasons))


def _reason_against(
    objects: Sequence[Detection],
    clause: Clause,
    matched: Sequence[Sequence[Detection] | None],
    colours_of: ColoursOf,
) -> str | None:
    wanted = f"{clause.count} of {clause.class_name}"
    if len(objects) < clause.count:
        return f"{wanted} wanted, {len(objects)} found"
    if clause.colour is not None:
        colours = colours_of(objects, clause.class_name)
        if colours.count(clause.colour) < clause.count:
            found = ", ".join(f"{colours.count(colour)} {colour}" for colour in COLOURS if colour in colours)
            return f"{wanted} in {clause.colour} wanted, {found} found"
    if clause.position is None:
        return None
    relation, index = clause.position
    targets = matched[index]
    if targets is None:
        return f"{clause.class_name} wanted {relation} a target that was not found itself"
    return _reason_against_place(objects, targets, relation)


def _reason_against_place(objects: Sequence[Detection], targets: Sequence[Detection], relation: str) -> str | None:
    for detection in objects:
        for target in targets:
            found = relations(detection.box, target.box)
            if relation not in found:
                place = " and ".join(sorted(found)) or "neither beside, above nor below"
                return f"{detection.class_name} wanted {relation} {target.class_name}, found {place} it"
    return None
