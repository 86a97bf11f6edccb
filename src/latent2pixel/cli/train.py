"""``l2p train``: train a converted model on a folder of images."""

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    model: Annotated[Path, typer.Argument(help="Converted pipeline, from `l2p convert`.")],
    images: Annotated[Path, typer.Argument(help="Images and prompts, from `l2p data synthesize`.")],
    out: Annotated[Path, typer.Argument(help="Run folder; the same call again goes on where it stopped.")],
    recipe: Annotated[
        str | None, typer.Option(help="Recipe whose training settings are the defaults; default: the conversion's.")
    ] = None,
    miniature: Annotated[bool, typer.Option(help="Scale the recipe to the miniature source.")] = False,
    source: Annotated[
        str | None, typer.Option(help="Objective source: the latent model; default: the one that was converted.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings, such as a run.yaml.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="One setting, such as steps=100.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved settings and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Train the shallow ends and the head of a converted model."""
    from dataclasses import asdict

    from latent2pixel import recipes
    from latent2pixel.config import apply_overrides, build_config, load_yaml
    from latent2pixel.train.config import TrainConfig
    from latent2pixel.workflow.transfer import recipe_of, transfer

    chosen = recipes.require_recipe(recipe or recipe_of(model))
    settings = asdict((recipes.miniature(chosen) if miniature else chosen).training)
    if config is not None:
        stored = load_yaml(config)
        settings |= stored.get("train", stored)
    resolved = build_config(TrainConfig, apply_overrides(settings, overrides or []))
    if dry_run:
        typer.echo(json.dumps(asdict(resolved), indent=2))
        return

    report = transfer(
        model, images, out, config=resolved, source=source, announce=lambda line: typer.echo(line, err=True)
    )
    if as_json:
        last = report.training.losses[-1][1] if report.training.losses else None
        result = {"model": str(report.model), "steps": report.training.steps, "seconds": report.training.seconds}
        typer.echo(json.dumps(result | {"loss": last, "skipped_images": report.skipped_images}))
    else:
        typer.echo(str(report.model))
