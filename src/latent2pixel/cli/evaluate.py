"""``l2p evaluate``: a source and its pixel model side by side, or one model alone."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

SUITE_HELP = (
    "world: held-out captions of the miniature, and its verifier. geneval: its published prompts, a detector. "
    "l2p-six-tasks: our own prompts of the same tasks. dpg: DPG-Bench. "
    "prompts: yours (--set prompts=FILE), compared without a judge."
)


def evaluate(
    source: Annotated[
        str, typer.Argument(help="Latent pipeline: a folder, or owner/name on the Hub; or a folder of its images.")
    ],
    pixel: Annotated[
        str | None, typer.Argument(help="Pixel pipeline or images, likewise; without it the first is judged alone.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all results; the same call again goes on.")] = Path(
        "l2p-evaluation"
    ),
    suite: Annotated[str, typer.Option(help=SUITE_HELP)] = "world",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE for any other setting; --dry-run lists them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved settings and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Draw the same prompts with the same seeds by both models, score and compare them, and write one page."""
    from dataclasses import asdict

    from latent2pixel.config import apply_overrides, build_config
    from latent2pixel.workflow.evaluation_config import EvaluationConfig
    from latent2pixel.workflow.side_by_side import PAGE_NAME
    from latent2pixel.workflow.side_by_side import evaluate as run
    from latent2pixel.workflow.suites import with_suite_defaults

    config = build_config(EvaluationConfig, apply_overrides({"suite": suite}, overrides or []))
    if dry_run:
        typer.echo(json.dumps(asdict(with_suite_defaults(config)), indent=2))
        return
    result = run(source, pixel, out, config=config, announce=lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(result))
        return
    for line in _lines(result):
        typer.echo(line, err=True)
    typer.echo(str(out / PAGE_NAME))


def _lines(result: dict[str, Any]) -> list[str]:
    """Return the scores as a terminal shows them: value and interval, or mean and deviation over runs."""
    scores = result["over_runs"] if "runs" in result else result
    rows = {**scores["tasks"], "all": scores["score"]} if scores and scores["tasks"] else {}
    lines = [
        f"{task:28} " + "  ".join(f"{name} {_told(part)}" for name, part in row.items()) for task, row in rows.items()
    ]
    runs = result.get("runs", [result])
    return [*lines, f"{sum(len(run['problems']) for run in runs)} pictures could not be used"]


def _told(part: dict[str, Any] | None) -> str:
    if part is None or part.get("value", 0) is None:
        return "none"
    if "mean" in part:
        return f"{part['mean']:.3f} +- {part['standard_deviation']:.3f}"
    return f"{part['value']:.3f} ({part['low']:.3f}, {part['high']:.3f})"
