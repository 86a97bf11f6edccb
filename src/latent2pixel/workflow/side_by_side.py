"""A source and its pixel model side by side, or one model alone: drawn, judged, compared, and shown on one page."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latent2pixel.device import fastest_device
from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.compare import ComparisonSettings, compare_folders
from latent2pixel.evaluate.pairs import Problem, Side, problem_order
from latent2pixel.evaluate.scores import Judged, Judgement, join_sides, scores_of, scores_over_runs
from latent2pixel.io.new_folder import write_file
from latent2pixel.io.records import write_records
from latent2pixel.report.comparison_page import ComparisonPage, ShownPair, write_comparison_page
from latent2pixel.report.page import require_packages
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.evaluation_networks import Networks, open_networks
from latent2pixel.workflow.sides import Models, Sides, draw_sides, image_folder
from latent2pixel.workflow.suites import Judge, Suite, open_suite, with_suite_defaults

RECORD_NAME, PAIRS_NAME, PAGE_NAME = "evaluation.json", "pairs.jsonl", "evaluation.html"
KEPT = ("network", "clip", "settings", "num_pairs", "results", "left_out")
"""Of a comparison's record; its pairs are lines of their own, and its problems are those of the evaluation."""


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
    _require_pipelines(models, config)
    runs = []
    for seed in range(config.seed, config.seed + config.runs):
        announce(f"seed {seed}")
        folder = out / f"seed-{seed}"
        found = _evaluate_once(models, folder, config=replace(config, seed=seed, runs=1), announce=announce)
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


def _evaluate_once(
    models: Models, out: Path, *, config: EvaluationConfig, announce: Callable[[str], object]
) -> dict[str, Any]:
    device = fastest_device().type
    # Before anything is drawn: hours of drawing must not end in a missing file.
    networks = open_networks(config, device=device)
    with closing(open_suite(config, device=device)) as suite:
        _require_measure(suite, models)
        sides = draw_sides(models, suite.prompts, out, config=config, device=device, announce=announce)
        return _measure(models, sides, suite, networks, out, config=config, announce=announce)


def _measure(
    models: Models,
    sides: Sides,
    suite: Suite,
    networks: Networks,
    out: Path,
    *,
    config: EvaluationConfig,
    announce: Callable[[str], object],
) -> dict[str, Any]:
    """Judge and compare pictures, and write everything that is found."""
    judged: list[Judged] = []
    judgements: dict[Side, Judgement] = {}
    problems = list(sides.problems)
    if suite.judge is not None:
        announce("the pictures are judged")
        judgements, judged = _judge(sides, suite.judge, out / "judged")
        problems += [problem for side in judgements for problem in _broken(side, sides, judgements[side])]
        _require_judged(judged, sides, problems=problems)
    compared = None
    if "source" in sides.images:
        announce("the pictures are compared")
        compared = _compare(sides, networks, config=config)
        # A picture that only decoding shows to be broken, and its partner, where no judge has looked.
        told = {(problem.side, problem.file) for problem in problems}
        problems += [Problem(**one) for one in compared["problems"] if (one["side"], one["file"]) not in told]
    result: dict[str, Any] = {
        **_names(models),
        "settings": asdict(config),
        **(scores_of(judged, seed=config.seed) if judged else {"score": None, "tasks": {}}),
        "judges": {side: judgement.record for side, judgement in judgements.items()},
        "manifests": sides.manifests(),
        "pictures": dict(sides.num_listed),
        "pairs": len(judged) if compared is None or suite.judge is not None else compared["num_pairs"],
        "problems": [problem.as_json() for problem in sorted(problems, key=problem_order)],
        "comparison": compared and {key: compared[key] for key in KEPT},
    }
    pairs = _pairs(judged, compared, sides)
    write_records(out / PAIRS_NAME, [_line(pair, sides) for pair in pairs])
    write_file(out / RECORD_NAME, json.dumps(result, indent=2) + "\n")
    write_comparison_page(ComparisonPage(record=result, pairs=pairs), out / PAGE_NAME)
    return result


def _names(models: Models) -> dict[str, Any]:
    """Return the models as they were given, by side."""
    return {side: str(model) for side, model in models.items()}


def _judge(sides: Sides, judge: Judge, folder: Path) -> tuple[dict[Side, Judgement], list[Judged]]:
    """Return what the judge says of each side, and of every picture that counts on all sides."""
    judgements = {side: judge(listed, folder / side) for side, listed in sides.images.items()}
    counted = {
        side: {key: score for key, score in judgement.scores.items() if key in sides.keys}
        for side, judgement in judgements.items()
    }
    return judgements, join_sides(counted)


def _broken(side: Side, sides: Sides, judgement: Judgement) -> list[Problem]:
    listed = sides.images[side]
    names = {key: listed.paths[key].relative_to(listed.folder).as_posix() for key in judgement.broken}
    return [
        Problem(side=side, file=names[prompt, seed], kind="broken", detail=detail, prompt=prompt, seed=seed)
        for (prompt, seed), detail in judgement.broken.items()
    ]


def _compare(sides: Sides, networks: Networks, *, config: EvaluationConfig) -> dict[str, Any]:
    return compare_folders(
        sides.images["source"].folder,
        sides.images["pixel"].folder,
        settings=ComparisonSettings(
            seed=config.seed,
            patch_size=config.patch_size or sides.patch_size,
            num_crops=config.num_crops,
            crop_px=config.crop_px,
        ),
        network=networks.network,
        clip=networks.clip,
        distance=networks.distance,
    )


def _pairs(judged: Sequence[Judged], compared: Mapping[str, Any] | None, sides: Sides) -> list[ShownPair]:
    """Return every picture or pair that is in a number, by prompt and seed."""
    distances = {(one["prompt"], one["seed"]): one["distance"] for one in (compared or {"pairs": []})["pairs"]}
    scores = {(one.prompt, one.seed): one.pictures for one in judged}
    return [
        ShownPair(
            prompt=prompt,
            seed=seed,
            files={side: listed.paths[prompt, seed] for side, listed in sides.images.items()},
            scores={side: one.score for side, one in scores.get((prompt, seed), {}).items()},
            reasons={side: one.reason for side, one in scores.get((prompt, seed), {}).items()},
            distance=distances.get((prompt, seed)),
        )
        for prompt, seed in sorted(scores.keys() | distances.keys())
    ]


def _line(pair: ShownPair, sides: Sides) -> dict[str, Any]:
    files = {side: pair.files[side].relative_to(listed.folder).as_posix() for side, listed in sides.images.items()}
    return asdict(pair) | {"files": files}


def _require_pipelines(models: Models, config: EvaluationConfig) -> None:
    given = [str(model) for model in models.values() if image_folder(model)]
    if given:
        raise ConfigError(
            "A folder of images is one run",
            found=f"runs = {config.runs}, and images in {given[0]}",
            expected="pipelines, which draw anew for each run",
            fix="Leave runs out, or name the pipeline that made the images.",
        )


def _require_measure(suite: Suite, models: Models) -> None:
    if suite.judge is None and "model" in models:
        raise ConfigError(
            "There is nothing to measure of one model alone",
            found="a suite without a judge",
            expected="a second model or folder to compare with, or a suite with a judge",
            fix="Name the other model too, or choose another suite.",
        )


def _require_judged(judged: Sequence[Judged], sides: Sides, *, problems: Sequence[Problem]) -> None:
    if not judged:
        raise DataError(
            "No pair of pictures could be judged" if "source" in sides.images else "No picture could be judged",
            found=f"{sum(sides.num_listed.values())} pictures, {len(problems)} problems, the first: {problems[:1]}",
            expected="a whole picture of each model for each prompt and seed",
            fix="Remove what is broken and run the same command again; folders of images must share prompts and seeds.",
        )
