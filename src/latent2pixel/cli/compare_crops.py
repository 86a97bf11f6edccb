"""``l2p compare-crops``: a source's pictures scaled up against a pixel model's, crop by crop."""

import json
from pathlib import Path
from typing import Annotated

import typer


def compare_crops(
    source: Annotated[str, typer.Argument(help="Latent pipeline: a folder, or owner/name on the Hub.")],
    pixel: Annotated[str, typer.Argument(help="Pixel pipeline, likewise.")],
    prompt: Annotated[list[str], typer.Option(help="What to show; once for each prompt.")],
    out: Annotated[Path, typer.Option(help="Folder of pictures and page; the same call again goes on.")] = Path(
        "l2p-crops"
    ),
    size: Annotated[int, typer.Option(help="Width and height of the pixel model's pictures.")] = 4096,
    source_size: Annotated[int, typer.Option(help="Width and height of the source's, which are scaled up.")] = 1024,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE for any other setting; --dry-run lists them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved settings and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Draw the same prompts by both models, each at its size, and write a page of crops at 100 %."""
    from dataclasses import asdict

    from latent2pixel.config import apply_overrides, build_config
    from latent2pixel.workflow.compare_crops import CropsConfig
    from latent2pixel.workflow.compare_crops import compare_crops as run

    given = {"size_px": size, "source_size_px": source_size}
    config = build_config(CropsConfig, apply_overrides(given, overrides or []))
    if dry_run:
        typer.echo(json.dumps(asdict(config), indent=2))
        return
    page = run(source, pixel, prompt, out, config=config, announce=lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps({"page": str(page)}) if as_json else str(page))
