"""Shares of right pictures, with their standard errors."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from latent2pixel.evaluate.geneval.names import TASKS
from latent2pixel.evaluate.ratio_mean import ratio_mean


@dataclass(frozen=True, kw_only=True)
class TaskMean:
    """Share of right pictures in one task."""

    score: float
    standard_error: float | None
    """Over prompts, whose pictures are not independent; None for a single prompt."""
    num_images: int
    num_prompts: int


def task_means(verdicts: Iterable[tuple[str, str, bool]]) -> dict[str, TaskMean]:
    """Return the share of right pictures for each task that has any.

    Args:
        verdicts: Task, name of the prompt, and whether the picture is right; one for each picture.
    """
    tasks: dict[str, dict[str, list[bool]]] = {}
    for task, prompt, correct in verdicts:
        tasks.setdefault(task, {}).setdefault(prompt, []).append(correct)
    return {task: _mean(list(tasks[task].values())) for task in TASKS if task in tasks}


def six_task_mean(tasks: Mapping[str, TaskMean]) -> tuple[float | None, float | None]:
    """Return GenEval's score, the unweighted mean over the six tasks, and its standard error.

    Returns:
        None for what cannot be said: the score without one of the tasks, the error without one of theirs.
    """
    if set(tasks) != set(TASKS):
        return None, None
    score = sum(task.score for task in tasks.values()) / len(TASKS)
    errors = [task.standard_error for task in tasks.values() if task.standard_error is not None]
    if len(errors) < len(TASKS):
        return score, None
    return score, math.sqrt(sum(error**2 for error in errors)) / len(TASKS)


def _mean(prompts: list[list[bool]]) -> TaskMean:
    score, error = ratio_mean(prompts)
    return TaskMean(score=score, standard_error=error, num_images=sum(map(len, prompts)), num_prompts=len(prompts))
