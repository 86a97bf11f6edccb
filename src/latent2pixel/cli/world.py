"""``l2p world``: the miniature world, its captions, pictures, scores and source model."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The miniature world: captions, pictures, scores, its source model.", no_args_is_help=True)

LevelName = Annotated[str, typer.Option("--level", help="easy, medium or full.")]


@app.command("captions")
def captions(
    level: LevelName = "easy",
    split: Annotated[str, typer.Option(help="train or heldout.")] = "heldout",
    num: Annotated[int, typer.Option(help="How many.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Print captions as prompt records, one JSON object a line."""
    from latent2pixel.world.captions import draw_captions, require_split
    from latent2pixel.world.levels import require_level

    for index, caption in enumerate(draw_captions(require_level(level), require_split(split), num, seed=seed)):
        record = {"id": f"{index:06d}", "prompt": caption.text, "major_class": "miniature", "sub_class": caption.task}
        typer.echo(json.dumps(record))


@app.command("render")
def render(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    level: LevelName = "easy",
    num: Annotated[int, typer.Option(help="Pictures.")] = 60,
    size: Annotated[int, typer.Option(help="Width and height in pixels, 64 to 4096.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of captions and scenes.")] = 0,
) -> None:
    """Render true pictures of held-out captions, with metadata.jsonl."""
    from latent2pixel.world.levels import require_level
    from latent2pixel.world.truth import render_folder

    typer.echo(str(render_folder(out, require_level(level), num=num, size_px=size, seed=seed)))


@app.command("score")
def score(
    folder: Annotated[Path, typer.Argument(help="Pictures with metadata.jsonl (file_name, prompt).")],
    level: LevelName = "easy",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Score pictures by the verifier, with standard error and chance."""
    from latent2pixel.world.levels import require_level
    from latent2pixel.world.score import score_folder

    result = score_folder(folder, require_level(level))
    typer.echo(json.dumps(result.as_record()) if as_json else str(result))


@app.command("train-source")
def train_source(
    out: Annotated[Path, typer.Argument(help="Run folder; the same call again goes on where it stopped.")],
    level: LevelName = "easy",
    from_shipped: Annotated[bool, typer.Option(help="Start from the shipped weights.")] = False,
    num_scenes: Annotated[int, typer.Option(help="Scenes whose latents are cached.")] = 50_000,
    vae_steps: Annotated[int, typer.Option(help="Steps of the VAE's training.")] = 1200,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="One setting, such as steps=12000.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train a miniature source from nothing: minutes for the VAE, hours for the transformer on two cores.

    A GPU is used where there is one. --set family=cogview4 makes a source of another family than the shipped one's.
    """
    from dataclasses import asdict

    from latent2pixel.config import apply_overrides, build_config
    from latent2pixel.world.levels import require_level
    from latent2pixel.world.train_source import SourceTraining

    chosen = require_level(level)
    settings = build_config(SourceTraining, apply_overrides(asdict(SourceTraining()), overrides or []))
    if dry_run:
        typer.echo(json.dumps(asdict(settings), indent=2))
        return

    from latent2pixel.world.build_source import build_source
    from latent2pixel.world.train_vae import VAETraining

    folder = build_source(
        out,
        level=chosen,
        vae_settings=VAETraining(steps=vae_steps, seed=settings.seed),
        settings=settings,
        num_scenes=num_scenes,
        from_shipped=from_shipped,
        announce=lambda line: typer.echo(line, err=True),
    )
    typer.echo(str(folder))
