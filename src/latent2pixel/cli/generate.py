"""``l2p generate``: one picture from a pixel model."""

from pathlib import Path
from typing import Annotated

import typer


def generate(
    model: Annotated[str, typer.Argument(help="Pixel pipeline: a folder, or owner/name on the Hub.")],
    prompt: Annotated[str, typer.Option(help="What to show.")],
    out: Annotated[Path, typer.Option(help="Image file to write.")] = Path("image.png"),
    size: Annotated[int, typer.Option(help="Width and height in pixels, a multiple of the patch.")] = 1024,
    steps: Annotated[int, typer.Option(help="Steps of the pipeline's scheduler.")] = 30,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the pipeline.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored.")] = None,
) -> None:
    """Sample one picture with the model's stock pipeline."""
    from latent2pixel.generate import load_pipeline
    from latent2pixel.generate.sample import sample_image
    from latent2pixel.io.pipeline_folder import parse_dtype

    pipe = load_pipeline(model, torch_dtype=parse_dtype(dtype))
    sample_image(pipe, prompt, out=out, size_px=size, num_steps=steps, guidance_scale=guidance, seed=seed)
    typer.echo(str(out))
