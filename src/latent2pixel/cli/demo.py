"""``l2p demo``: the whole paper in miniature."""

import json
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder of all results; the same call again goes on.")] = Path("l2p-demo"),
    source: Annotated[
        str, typer.Option(help="Folder or id of a source pipeline; 'shipped' is the miniature in the package.")
    ] = "shipped",
    recipe: Annotated[str, typer.Option(help="Recipe: lift, paper or released.")] = "lift",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="One setting, such as steps=100.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved settings and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Run latent-to-pixel transfer end to end and write one HTML report."""
    from dataclasses import asdict

    from latent2pixel.config import apply_overrides, build_config
    from latent2pixel.workflow.demo_config import DemoConfig

    settings = asdict(DemoConfig(source=source, recipe=recipe))
    config = build_config(DemoConfig, apply_overrides(settings, overrides or []))
    if dry_run:
        typer.echo(json.dumps(asdict(config), indent=2))
        return

    from latent2pixel.workflow.demo import run_demo

    result = run_demo(out, config=config, announce=lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(result.as_record()))
        return
    typer.echo(f"source score  {result.source_score}", err=True)
    typer.echo(f"pixel score   {result.pixel_score}", err=True)
    typer.echo(f"retention     {result.retention:.3f} +- {result.retention_error:.3f}", err=True)
    typer.echo(f"time          {result.minutes:.1f} minutes", err=True)
    typer.echo(str(result.report))
