"""``l2p data``: filter prompts, and make images of them with the source."""

import json
from pathlib import Path
from typing import Annotated

import typer

from latent2pixel.cli import data_sets

app = typer.Typer(help="Prompts, their filter, and images made by the source.", no_args_is_help=True)
app.command("import")(data_sets.import_images)
app.command("pack")(data_sets.pack)
app.command("push")(data_sets.push)
app.command("stats")(data_sets.stats)


@app.command("filter")
def filter_prompts(
    prompts: Annotated[Path, typer.Argument(help="JSON lines with id, prompt, major_class and sub_class.")],
    out: Annotated[Path, typer.Argument(help="Receives the valid prompts.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Keep the valid prompts; the reason for every rejected one goes to stderr."""
    from latent2pixel.data.judge import audit
    from latent2pixel.data.prompts import load_prompts, save_prompts

    judged = audit(load_prompts(prompts))
    save_prompts(out, judged.kept)
    for prompt, reason in judged.rejected:
        typer.echo(f"rejected {prompt.id}: {reason}", err=True)
    counts = {"out": str(out), "kept": len(judged.kept), "rejected": len(judged.rejected)}
    typer.echo(json.dumps(counts) if as_json else str(out))


@app.command("synthesize")
def synthesize(
    source: Annotated[str, typer.Argument(help="Pipeline: a folder, or owner/name on the Hub.")],
    prompts: Annotated[Path, typer.Argument(help="JSON lines with id, prompt, major_class and sub_class.")],
    out: Annotated[Path, typer.Argument(help="Receives the images; the same call again goes on.")],
    seeds_per_prompt: Annotated[int, typer.Option(help="Images of each prompt.")] = 2,
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 1024,
    steps: Annotated[int, typer.Option(help="Steps of the pipeline's scheduler.")] = 30,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the pipeline.")] = 2.0,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of all images.")] = 0,
    rank: Annotated[int, typer.Option(help="Number of this process.")] = 0,
    world_size: Annotated[int, typer.Option(help="Processes that share the folder.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Make images of every prompt with a stock pipeline."""
    from dataclasses import asdict

    import torch

    from latent2pixel.data.prompts import load_prompts
    from latent2pixel.data.synthesize import synthesize as run
    from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline

    loaded = load_prompts(prompts)
    pipe = open_pipeline(find_pipeline_folder(source))
    report = run(
        pipe.to("cuda" if torch.cuda.is_available() else "cpu"),
        loaded,
        out,
        seeds_per_prompt=seeds_per_prompt,
        image_size_px=size,
        num_steps=steps,
        guidance_scale=guidance,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    typer.echo(json.dumps({"out": str(out), **asdict(report)}) if as_json else str(out))
