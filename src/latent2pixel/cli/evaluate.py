"""``l2p evaluate``: a source and its pixel model side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    source: Annotated[str, typer.Argument(help="Latent pipeline: a folder, or owner/name on the Hub.")],
    pixel: Annotated[str, typer.Argument(help="Pixel pipeline, likewise.")],
    out: Annotated[Path, typer.Option(help="Folder of all results; the same call again goes on.")] = Path(
        "l2p-evaluation"
    ),
    suite: Annotated[str, typer.Option(help="world: held-out captions of the miniature, and its verifier.")] = "world",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE for any other setting; --dry-run lists them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved settings and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Draw the same prompts with the same seeds by both models, score them, and write one page."""
    from dataclasses import asdict

    from latent2pixel.config import apply_overrides, build_config
    from latent2pixel.workflow.side_by_side import PAGE_NAME, EvaluationConfig
    from latent2pixel.workflow.side_by_side import evaluate as run

    config = build_config(EvaluationConfig, apply_overrides({"suite": suite}, overrides or []))
    if dry_run:
        typer.echo(json.dumps(asdict(config), indent=2))
        return
    result = run(source, pixel, out, config=config, announce=lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, row in (*result["tasks"].items(), ("all", result["score"])):
        kept = row["retention"]
        shown = (
            "no retention" if kept["value"] is None else f"{kept['value']:.2f} ({kept['low']:.2f}, {kept['high']:.2f})"
        )
        typer.echo(f"{name:24} {row['source']['value']:.3f} {row['pixel']['value']:.3f}  {shown}", err=True)
    typer.echo(f"{len(result['problems'])} pictures could not be judged", err=True)
    typer.echo(str(out / PAGE_NAME))
