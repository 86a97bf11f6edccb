"""A source and its pixel model side by side: both draw the same prompts with the same seeds, and are compared."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import synthesize
from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.compare import ComparisonSettings, compare_folders
from latent2pixel.evaluate.pairs import Pair, Problem, pair_folders
from latent2pixel.evaluate.uncertainty import bootstrap_mean, retention_of_tasks
from latent2pixel.io.images import bytes_of, load_image
from latent2pixel.io.new_folder import write_file
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline, parse_dtype
from latent2pixel.report.comparison_page import ComparisonPage, Verdict, write_comparison_page
from latent2pixel.workflow.world_prompts import heldout_prompts
from latent2pixel.world.levels import Level, require_level
from latent2pixel.world.score import caption_of
from latent2pixel.world.verify import verify

SUITES = ("world",)
"""Sets of prompts with a judge of their pictures."""
RECORD_NAME, PAGE_NAME = "evaluation.json", "evaluation.html"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What both models draw."""

    suite: str = "world"
    """"world": held-out captions of the miniature, judged by its verifier."""
    level: str = "easy"
    """Level of the world."""
    num_prompts: int = 120
    """Captions, as many of each task as of any other."""
    seeds_per_prompt: int = 2
    """Pictures of each."""
    image_size_px: int = 64
    """Width and height."""
    num_steps: int = 16
    """Steps of both pipelines' schedulers."""
    guidance_scale: float = 2.0
    """Guidance of both."""
    dtype: str | None = None
    """Torch dtype of both; None takes the stored one."""
    seed: int = 0
    """Of captions, pictures and resamples."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A pair of pictures and whether each shows what its prompt asks for."""

    pair: Pair
    task: str
    """Such as ``world/counting``."""
    source: bool
    pixel: bool


def evaluate(
    source: str | Path,
    pixel: str | Path,
    out: Path,
    *,
    config: EvaluationConfig,
    announce: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Let both models draw, score and compare them; the same call again goes on where it stopped.

    Args:
        source: Latent pipeline: a folder, or ``owner/name`` on the Hub.
        pixel: Pixel pipeline, likewise.
        out: Receives ``source`` and ``pixel`` with the pictures, ``evaluation.json`` and ``evaluation.html``.
        config: What to draw.
        announce: Is told of every stage.

    Returns:
        What ``evaluation.json`` holds: scores by task with intervals, retention, what the folders' pictures say of each
        other (``compare_folders``, with the network that needs no download), and pictures that could not be used.

    Raises:
        ConfigError: No such suite, level or dtype.
        SourceError: A pipeline cannot be found or loaded.
        StateError: ``out`` holds pictures of other models or settings.
        DataError: No two pairs of pictures could be judged, or the pictures are too small.
        OutputFolderError: ``out`` cannot be written, or the disk is full.
    """
    if config.suite not in SUITES:
        raise ConfigError(
            "There is no suite of that name",
            found=config.suite,
            expected=f"one of {', '.join(SUITES)}",
            fix="Choose another suite.",
        )
    level = require_level(config.level)
    patch_sizes = {}
    for name, model in (("source", source), ("pixel", pixel)):
        announce(f"{name} draws")
        patch_sizes[name] = _draw(model, out / name, level, config)
    pairs, problems, listed = pair_folders(out / "source", out / "pixel")
    announce("the pictures are judged")
    judged, broken = judge_pairs(pairs, level)
    problems = [*problems, *broken]
    if not judged:
        raise DataError(
            "No pair of pictures could be judged",
            found=f"{sum(listed.values())} pictures, {len(problems)} problems, the first: {problems[:1]}",
            expected="a whole picture of each model for each prompt and seed",
            fix=f"Remove {out} and run the same command again.",
        )
    compared = compare_folders(
        out / "source",
        out / "pixel",
        settings=ComparisonSettings(seed=config.seed, patch_size=patch_sizes["pixel"]),
    )
    result = {
        "source": str(source),
        "pixel": str(pixel),
        "settings": asdict(config),
        **scores_of(judged, seed=config.seed),
        "pictures": listed,
        "pairs": len(judged),
        "problems": [problem.as_json() for problem in problems],
        "comparison": {key: compared[key] for key in ("network", "settings", "results", "left_out")},
    }
    write_file(out / RECORD_NAME, json.dumps(result, indent=2) + "\n")
    write_comparison_page(_page(result, judged), out / PAGE_NAME)
    return result


def judge_pairs(pairs: Sequence[Pair], level: Level) -> tuple[list[Judged], list[Problem]]:
    """Let the world's verifier judge pairs of pictures; return those that it could see, and what was wrong with others.

    Raises:
        DataError: A prompt is no caption of the level.
    """
    judged, problems = [], []
    for pair in pairs:
        caption = caption_of(level, pair.prompt)
        verdicts: dict[str, bool] = {}
        for side, path in (("source", pair.source), ("pixel", pair.pixel)):
            try:
                verdicts[side] = verify(bytes_of(load_image(path)), caption)
            except DataError as error:
                problems.append(
                    Problem(
                        side="source" if side == "source" else "pixel", file=path.name, kind="broken",
                        detail=str(error.found), prompt=pair.prompt, seed=pair.seed,
                    )
                )  # fmt: skip
        if len(verdicts) == 2:
            judged.append(Judged(pair=pair, task=f"world/{caption.task}", **verdicts))
    return judged, problems


def scores_of(judged: Sequence[Judged], *, seed: int) -> dict[str, Any]:
    """Return scores and retention, by task and over all, each with its interval over prompts.

    The score of all is GenEval's: the plain mean of the tasks' means.
    """
    prompts, tasks = [one.pair.prompt for one in judged], [one.task for one in judged]
    generator = torch.Generator().manual_seed(seed)
    source, pixel = ([float(getattr(one, side)) for one in judged] for side in ("source", "pixel"))
    kept, total = retention_of_tasks(source, pixel, prompts, tasks, generator=generator)
    rows = {}
    for task in kept:
        chosen = [index for index, name in enumerate(tasks) if name == task]
        rows[task] = {
            side: asdict(bootstrap_mean([values[i] for i in chosen], [prompts[i] for i in chosen], generator=generator))
            for side, values in (("source", source), ("pixel", pixel))
        } | {"retention": asdict(kept[task])}
    means = {side: sum(row[side]["value"] for row in rows.values()) / len(rows) for side in ("source", "pixel")}
    errors = {
        side: sum((row[side]["standard_error"] or 0.0) ** 2 for row in rows.values()) ** 0.5 / len(rows)
        for side in ("source", "pixel")
    }
    score = {side: {"value": means[side], "standard_error": errors[side]} for side in means}
    return {"score": score | {"retention": asdict(total)}, "tasks": rows}


def _draw(model: str | Path, folder: Path, level: Level, config: EvaluationConfig) -> int | None:
    """Let a model draw, or go on drawing; return the patch of a pixel model."""
    path = find_pipeline_folder(model)
    pipe = open_pipeline(path, dtype=parse_dtype(config.dtype))
    synthesize(
        pipe.to("cuda" if torch.cuda.is_available() else "cpu"),
        heldout_prompts(level, config.num_prompts, seed=config.seed),
        folder,
        seeds_per_prompt=config.seeds_per_prompt,
        image_size_px=config.image_size_px,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        seed=config.seed,
        source=source_facts(path),
    )
    return pipe.transformer.config.get("pixel_patch_size")


def _page(result: dict[str, Any], judged: Sequence[Judged]) -> ComparisonPage:
    verdicts = [
        Verdict(
            prompt=one.pair.prompt,
            seed=one.pair.seed,
            source_file=one.pair.source,
            pixel_file=one.pair.pixel,
            source=one.source,
            pixel=one.pixel,
        )
        for one in judged
    ]
    return ComparisonPage(record=result, verdicts=verdicts)
