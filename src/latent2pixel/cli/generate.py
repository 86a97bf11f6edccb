"""``l2p generate``: pictures from a pixel model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent2pixel.errors import ConfigError

if TYPE_CHECKING:
    from latent2pixel.generate.run import Made


def generate(
    model: Annotated[str, typer.Argument(help="Pixel pipeline: a folder, or owner/name on the Hub.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What to show; may be repeated.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File of prompts: one a line, or JSON lines as `l2p data prompts` writes.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG file, or a folder for several. Default: image.png, or images.")
    ] = None,
    size: Annotated[str, typer.Option(help="Pixels, 1024 or WIDTHxHEIGHT; multiples of the patch.")] = "1024",
    steps: Annotated[int, typer.Option(help="Steps of the pipeline's scheduler.")] = 30,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the pipeline.")] = 2.0,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of the noise; may be repeated. Default: 0.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Pictures of each prompt and seed: seeds counted on.")] = 1,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 1,
    memory: Annotated[
        str | None, typer.Option(help="What may be taken in all, such as 8GB. Default: what is free.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile blocks and head: a slow first picture, faster ones after it."),
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Sample pictures with the model's stock pipeline, or tile by tile where they do not fit into memory.

    The same call again goes on: pictures that are there are not made again.
    """
    from latent2pixel.config.memory_size import parse_memory
    from latent2pixel.data.source_facts import source_facts
    from latent2pixel.generate import load_pipeline
    from latent2pixel.generate.picture import PictureSettings, plan_pictures
    from latent2pixel.generate.run import generate_pictures
    from latent2pixel.generate.size import parse_size
    from latent2pixel.io.pipeline_folder import find_pipeline_folder, parse_dtype

    texts = [*(prompt or []), *(_read_prompts(prompts) if prompts is not None else [])]
    if not texts:
        raise ConfigError(
            "There is nothing to show", found="no prompt", expected="a prompt", fix="Give --prompt or --prompts."
        )
    seeds = [first + index for first in (seed or [0]) for index in range(images)]
    alone = len(texts) * len(seeds) == 1
    target = out or Path("image.png" if alone else "images")
    planned = plan_pictures(target, texts, seeds)
    budget_bytes = None if memory is None else parse_memory(memory)
    size_px, torch_dtype = parse_size(size), parse_dtype(dtype)
    folder = find_pipeline_folder(model)
    facts = source_facts(folder)
    pipe = load_pipeline(folder, torch_dtype=torch_dtype)
    settings = PictureSettings(
        size_px=size_px,
        num_steps=steps,
        guidance_scale=guidance,
        model=facts.source,
        revision=facts.revision,
        dtype=str(pipe.transformer.dtype).removeprefix("torch."),
    )
    made = generate_pictures(pipe, planned, settings, batch_size=batch, budget_bytes=budget_bytes, compiled=compiled)
    typer.echo(_json(made, folder=target) if as_json else str(target))


def _read_prompts(path: Path) -> list[str]:
    from latent2pixel.data.prompts import load_prompts, read_prompt_lines

    if path.suffix == ".jsonl":
        return [prompt.prompt for prompt in load_prompts(path)]
    return read_prompt_lines(path)


def _json(made: "list[Made]", *, folder: Path) -> str:
    pictures = [
        {
            "path": str(each.picture.path),
            "prompt": each.picture.prompt,
            "seed": each.picture.seed,
            "seconds": each.seconds,
            "tile_px": each.tile_px,
        }
        for each in made
    ]
    return json.dumps({"out": str(folder), "pictures": pictures}, ensure_ascii=False)
