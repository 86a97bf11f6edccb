"""Scores of judged pictures: by task and over all, of one model alone or of two side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from latent2pixel.evaluate.pairs import Key, Side
from latent2pixel.evaluate.uncertainty import Estimate, mean_of_tasks, over_runs, retention_of_tasks


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """What a judge says of one picture."""

    file: Path
    """The picture."""
    task: str
    """Such as ``geneval/counting``."""
    score: float
    """In [0, 1]; a judge of right and wrong says 0 or 1."""
    reason: str = ""
    """Why it is not 1, in words, if the judge tells."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge says of the pictures of one side."""

    scores: Mapping[Key, PictureScore]
    """By prompt and seed; pictures that it could not see are not there."""
    broken: Mapping[Key, str]
    """The others, each with what is wrong with it."""
    record: Mapping[str, Any]
    """Who judged: "key", under which scores may be compared with others', and whatever else the judge tells."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The pictures of one prompt and seed, one of each side, all of them judged."""

    prompt: str
    seed: int
    task: str
    pictures: Mapping[Side, PictureScore]
    """By side: "source" and "pixel", or "model" alone."""


def join_sides(sides: Mapping[Side, Mapping[Key, PictureScore]]) -> list[Judged]:
    """Return what was judged on every side, in the order of prompt and seed; a picture without its partner is left out.

    Args:
        sides: Judged pictures of each side, by prompt and seed.
    """
    keys = set.intersection(*(set(pictures) for pictures in sides.values()))
    first = next(iter(sides.values()))
    return [
        Judged(
            prompt=prompt,
            seed=seed,
            task=first[prompt, seed].task,
            pictures={side: pictures[prompt, seed] for side, pictures in sides.items()},
        )
        for prompt, seed in sorted(keys)
    ]


def scores_of(judged: Sequence[Judged], *, seed: int) -> dict[str, Any]:
    """Return scores, and retention where there are two sides, by task and over all, with intervals over prompts.

    The score of all is GenEval's: the plain mean of the tasks' means.

    Args:
        judged: One at least, all of the same sides.
        seed: Of the resamples.

    Returns:
        Under "tasks" a row for each task, under "score" one for all: an ``Estimate`` as an object for each side, and
        "retention" beside "source" and "pixel".
    """
    prompts, tasks = [one.prompt for one in judged], [one.task for one in judged]
    sides = list(judged[0].pictures)
    values = {side: [one.pictures[side].score for one in judged] for side in sides}
    # Every number has draws of its own, the same for both sides: one more of them changes no other.
    columns: dict[str, tuple[dict[str, Estimate], Estimate]] = {
        side: mean_of_tasks(values[side], prompts, tasks, generator=torch.Generator().manual_seed(seed))
        for side in sides
    }
    if {"source", "pixel"} <= set(sides):
        columns["retention"] = retention_of_tasks(
            values["source"], values["pixel"], prompts, tasks, generator=torch.Generator().manual_seed(seed)
        )
    return {
        "score": {name: asdict(total) for name, (_, total) in columns.items()},
        "tasks": {
            task: {name: asdict(by_task[task]) for name, (by_task, _) in columns.items()} for task in sorted(set(tasks))
        },
    }


def scores_over_runs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over whole runs of every number of ``scores_of``, in its shape.

    A number that one of the runs has not is None: a mean over the others would hide that.

    Args:
        runs: What ``scores_of`` returned for each.
    """

    def spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        names = {name: [row[name]["value"] for row in rows] for name in rows[0]}
        return {name: None if None in values else over_runs(values) for name, values in names.items()}

    common = [task for task in runs[0]["tasks"] if all(task in run["tasks"] for run in runs)]
    return {
        "score": spread([run["score"] for run in runs]),
        "tasks": {task: spread([run["tasks"][task] for run in runs]) for task in common},
    }
