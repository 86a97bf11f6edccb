"""A source and its pixel model side by side, or one model alone: drawn, judged, compared, and shown on one page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import MANIFEST, synthesize
from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.compare import ComparisonSettings, compare_folders
from latent2pixel.evaluate.pairs import Key, Problem, Side, list_images, pair_folders, problem_order
from latent2pixel.evaluate.scores import Judged, Judgement, join_sides, scores_of, scores_over_runs
from latent2pixel.io.new_folder import write_file
from latent2pixel.io.pipeline_folder import INDEX_NAME, find_pipeline_folder, open_pipeline, parse_dtype, read_json
from latent2pixel.io.records import write_records
from latent2pixel.report.comparison_page import ComparisonPage, ShownPair, write_comparison_page
from latent2pixel.report.page import require_packages
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.evaluation_networks import Networks, open_networks
from latent2pixel.workflow.suites import Suite, open_suite, with_suite_defaults

RECORD_NAME, PAIRS_NAME, PAGE_NAME = "evaluation.json", "pairs.jsonl", "evaluation.html"
Models = Mapping[Side, str | Path]


def evaluate(
    source: str | Path,
    pixel: str | Path | None,
    out: Path,
    *,
    config: EvaluationConfig,
    announce: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Let the models draw, judge and compare them; the same call again goes on where it stopped.

    Args:
        source: Latent pipeline: a folder, or ``owner/name`` on the Hub; or a folder of images with ``metadata.jsonl``.
        pixel: Pixel pipeline or folder of its images, likewise; None looks at the first alone, whatever it is.
        out: Receives the pictures, ``evaluation.json``, ``pairs.jsonl`` with a line for each picture or pair, and
            ``evaluation.html``; of several runs, a folder for each with all of these.
        config: What to draw and to measure.
        announce: Is told of every stage.

    Returns:
        What ``evaluation.json`` holds: scores by task with intervals, retention, who judged, what the folders' pictures
        say of each other (``compare_folders``), and pictures that could not be used. Of several runs, mean and standard
        deviation of the scores under "over_runs", and what each run found under "runs".

    Raises:
        ConfigError: No such suite, level, network or dtype; or several runs of a folder of images, which is one.
        SourceError: A pipeline or a judge's weights cannot be found or loaded.
        CheckpointError: Weights of a judge or a network are damaged.
        StateError: ``out`` holds pictures of other models or settings.
        DataError: Prompts are missing, no pictures could be judged, or they are too small to be compared.
        OutputFolderError: ``out`` cannot be written, or the disk is full.
    """
    require_packages()
    config = with_suite_defaults(config)
    models: Models = {"model": source} if pixel is None else {"source": source, "pixel": pixel}
    if config.runs == 1:
        return _evaluate_once(models, out, config=config, announce=announce)
    if given := [str(model) for model in models.values() if image_folder(model)]:
        raise ConfigError(
            "A folder of images is one run",
            found=f"runs = {config.runs}, and images in {given[0]}",
            expected="pipelines, which draw anew for each run",
            fix="Leave runs out, or name the pipeline that made the images.",
        )
    runs = []
    for seed in range(config.seed, config.seed + config.runs):
        announce(f"seed {seed}")
        settings = replace(config, seed=seed, runs=1)
        folder = out / f"seed-{seed}"
        found = _evaluate_once(models, folder, config=settings, announce=announce)
        runs.append({"seed": seed, "folder": folder.name, **found})
    result: dict[str, Any] = {
        **_names(models),
        "settings": asdict(config),
        "over_runs": scores_over_runs(runs) if runs[0]["tasks"] else None,
        "runs": runs,
    }
    write_file(out / RECORD_NAME, json.dumps(result, indent=2) + "\n")
    write_comparison_page(ComparisonPage(record=result, pairs=[]), out / PAGE_NAME)
    return result


def image_folder(model: str | Path) -> Path | None:
    """Return the folder with images and their records, if that is what was given: itself or ``images``; else None."""
    folder = Path(model)
    if (folder / INDEX_NAME).is_file():
        return None
    for place in (folder, folder / "images"):
        if any(place.glob("metadata.jsonl")) or any(place.glob("[!.]*/metadata.jsonl")):
            return place
    return None


def _evaluate_once(
    models: Models, out: Path, *, config: EvaluationConfig, announce: Callable[[str], object]
) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Before anything is drawn: hours of drawing must not end in a missing file.
    suite, networks = open_suite(config, device=device), open_networks(config, device=device)
    _require_measure(suite, models)
    folders, patch_size = {}, None
    for side, model in models.items():
        folder = image_folder(model)
        if folder is None:
            announce(f"{side} draws")
            folder = out / side
            patch_size = _draw(model, folder, suite, config=config, device=device) or patch_size
        folders[side] = folder
    images, keys, problems, listed = _list(folders)
    judged, judgements = [], {}
    if suite.judge is not None:
        announce("the pictures are judged")
        for side, folder in folders.items():
            judgements[side] = suite.judge(images[side], out / "judged" / side)
            problems += _broken(side, images[side], judgements[side], folder=folder)
        seen = {side: judgement.scores for side, judgement in judgements.items()}
        judged = join_sides({side: {key: scores[key] for key in keys & scores.keys()} for side, scores in seen.items()})
        _require_judged(judged, folders, listed=listed, problems=problems)
    compared = None
    if "source" in folders:
        announce("the pictures are compared")
        settings = replace(config, patch_size=config.patch_size or patch_size)
        compared = _compare(folders, networks, config=settings)
    result: dict[str, Any] = {
        **_names(models),
        "settings": asdict(config),
        **(scores_of(judged, seed=config.seed) if judged else {"score": None, "tasks": {}}),
        "judges": {side: judgement.record for side, judgement in judgements.items()},
        "manifests": {side: _manifest(folder) for side, folder in folders.items()},
        "pictures": listed,
        "pairs": len(judged) if judged else len(keys),
        "problems": [problem.as_json() for problem in sorted(problems, key=problem_order)],
        "comparison": compared and {key: value for key, value in compared.items() if key in KEPT},
    }
    pairs = _pairs(judged, compared, images)
    write_records(out / PAIRS_NAME, [_line(pair, folders) for pair in pairs])
    write_file(out / RECORD_NAME, json.dumps(result, indent=2) + "\n")
    write_comparison_page(ComparisonPage(record=result, pairs=pairs), out / PAGE_NAME)
    return result


KEPT = ("network", "clip", "settings", "num_pairs", "results", "left_out")
"""Of a comparison's record; its pairs are lines of their own, and its problems are those of the evaluation."""


def _names(models: Models) -> dict[str, Any]:
    """Return the models as they were given, by side."""
    return {side: str(model) for side, model in models.items()}


def _draw(model: str | Path, folder: Path, suite: Suite, *, config: EvaluationConfig, device: str) -> int | None:
    """Let a model draw, or go on drawing; return the patch of a pixel model."""
    path = find_pipeline_folder(model)
    pipe = open_pipeline(path, dtype=parse_dtype(config.dtype))
    assert config.seeds_per_prompt is not None
    assert config.image_size_px is not None
    assert config.num_steps is not None
    synthesize(
        pipe.to(device),
        suite.prompts,
        folder,
        seeds_per_prompt=config.seeds_per_prompt,
        image_size_px=config.image_size_px,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        seed=config.seed,
        source=source_facts(path),
    )
    return pipe.transformer.config.get("pixel_patch_size")


def _list(
    folders: Mapping[Side, Path],
) -> tuple[dict[Side, dict[Key, Path]], set[Key], list[Problem], dict[Side, int]]:
    """Return the usable images of each side, prompt and seed of those that count, problems, and how many are listed.

    Of two sides the pairs count.
    """
    if "model" in folders:
        images, problems, number = list_images(folders["model"], "model")
        return {"model": images}, set(images), problems, {"model": number}
    pairs, problems, listed = pair_folders(folders["source"], folders["pixel"])
    both = {side: list_images(folder, side)[0] for side, folder in folders.items()}
    return both, {(pair.prompt, pair.seed) for pair in pairs}, problems, listed


def _broken(side: Side, images: Mapping[Key, Path], judgement: Judgement, *, folder: Path) -> list[Problem]:
    return [
        Problem(
            side=side, file=images[prompt, seed].relative_to(folder).as_posix(), kind="broken", detail=detail,
            prompt=prompt, seed=seed,
        )
        for (prompt, seed), detail in judgement.broken.items()
    ]  # fmt: skip


def _require_measure(suite: Suite, models: Models) -> None:
    if suite.judge is None and "model" in models:
        raise ConfigError(
            "There is nothing to measure of one model alone",
            found="a suite without a judge",
            expected="a second model or folder to compare with, or a suite with a judge",
            fix="Name the other model too, or choose another suite.",
        )


def _require_judged(
    judged: Sequence[Judged],
    folders: Mapping[Side, Path],
    *,
    listed: Mapping[Side, int],
    problems: Sequence[Problem],
) -> None:
    if not judged:
        raise DataError(
            "No pair of pictures could be judged" if "source" in folders else "No picture could be judged",
            found=f"{sum(listed.values())} pictures, {len(problems)} problems, the first: {problems[:1]}",
            expected="a whole picture of each model for each prompt and seed",
            fix="Remove what is broken and run the same command again; folders of images must share prompts and seeds.",
        )


def _compare(folders: Mapping[Side, Path], networks: Networks, *, config: EvaluationConfig) -> dict[str, Any]:
    return compare_folders(
        folders["source"],
        folders["pixel"],
        settings=ComparisonSettings(
            seed=config.seed, patch_size=config.patch_size, num_crops=config.num_crops, crop_px=config.crop_px
        ),
        network=networks.network,
        clip=networks.clip,
        distance=networks.distance,
    )


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return what a folder of images tells of how it was made, if it tells."""
    path = folder / MANIFEST
    return read_json(path) if path.is_file() else None


def _pairs(
    judged: Sequence[Judged], compared: Mapping[str, Any] | None, images: Mapping[Side, Mapping[Key, Path]]
) -> list[ShownPair]:
    """Return every picture or pair that is in a number, by prompt and seed."""
    distances = {(one["prompt"], one["seed"]): one["distance"] for one in (compared or {"pairs": []})["pairs"]}
    scores = {(one.prompt, one.seed): one.pictures for one in judged}
    return [
        ShownPair(
            prompt=prompt,
            seed=seed,
            files={side: files[prompt, seed] for side, files in images.items()},
            scores={side: one.score for side, one in scores.get((prompt, seed), {}).items()},
            reasons={side: one.reason for side, one in scores.get((prompt, seed), {}).items()},
            distance=distances.get((prompt, seed)),
        )
        for prompt, seed in sorted(scores.keys() | distances.keys())
    ]


def _line(pair: ShownPair, folders: Mapping[Side, Path]) -> dict[str, Any]:
    files = {side: pair.files[side].relative_to(folder).as_posix() for side, folder in folders.items()}
    return asdict(pair) | {"files": files}
