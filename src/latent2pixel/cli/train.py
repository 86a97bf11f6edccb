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
    mix: Annotated[
        list[str] | None,
        typer.Option(help="FOLDER=SHARE: more images, and their share of what is shown, such as real=0.5; repeatable."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Objective source: the latent model; default: the one that was converted.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings, such as a run.yaml.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="One setting, such as steps=100.")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Print the resolved settings and the memory that they take, and stop.")
    ] = False,
    card_gb: Annotated[
        list[float] | None, typer.Option(min=0, help="With --dry-run: largest batch of cards of so many GB only.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="With --dry-run: processes that share a batch.")] = 1,
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
    stored = {} if config is None else load_yaml(config)
    settings |= stored.get("train", stored)
    resolved = build_config(TrainConfig, apply_overrides(settings, overrides or []))
    if dry_run:
        from latent2pixel.train.memory import CARDS_GB
        from latent2pixel.workflow.dry_run import dry_run as estimate
        from latent2pixel.workflow.dry_run import table

        found = estimate(
            model, images, config=resolved, source=source, cards_gb=card_gb or CARDS_GB, num_processes=processes
        )
        typer.echo(json.dumps(found) if as_json else f"{json.dumps(asdict(resolved), indent=2)}\n{table(found)}")
        return

    from latent2pixel.report.terminal import loss_curve
    from latent2pixel.train.processes import processes as own_process

    report = transfer(
        model,
        images,
        out,
        config=resolved,
        mix=shares_of(mix) if mix else {Path(folder): share for folder, share in stored.get("mix", {}).items()},
        source=source,
        announce=lambda line: typer.echo(line, err=True),
    )
    if not own_process().is_main_process:
        return
    if len(report.training.losses) > 1:
        typer.echo(loss_curve(report.training.losses), err=True)
    if as_json:
        last = report.training.losses[-1][1] if report.training.losses else None
        result = {"model": str(report.model), "steps": report.training.steps, "seconds": report.training.seconds}
        typer.echo(json.dumps(result | {"loss": last, "skipped_images": report.skipped_images}))
    else:
        typer.echo(str(report.model))


def shares_of(mix: list[str]) -> dict[Path, float]:
    """Return the share of each folder of ``--mix FOLDER=SHARE``.

    Raises:
        ConfigError: One is not of this form, or names a folder a second time.
    """
    from latent2pixel.errors import ConfigError

    shares: dict[Path, float] = {}
    for one in mix:
        folder, _, share = one.rpartition("=")
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        if not folder or not 0 < number < 1 or Path(folder) in shares:
            raise ConfigError(
                "A folder to mix in is not of the form FOLDER=SHARE",
                found=repr(one),
                expected="such as real=0.5: a share above 0 and below 1, each folder once",
                fix="Correct --mix.",
            )
        shares[Path(folder)] = number
    return shares
