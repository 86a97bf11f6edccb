"""One picture from a pixel pipeline."""

from pathlib import Path
from typing import Any

import torch

from latent2pixel.errors import GeometryError


def sample_image(
    pipe: Any, prompt: str, *, out: Path, size_px: int, num_steps: int, guidance_scale: float, seed: int
) -> None:
    """Sample a picture and save it.

    Args:
        pipe: Pixel pipeline, as ``load_pipeline`` returns it.
        prompt: What to show.
        out: Image file; its ending chooses the format.
        size_px: Width and height.
        num_steps: Steps of the scheduler.
        guidance_scale: Guidance of the pipeline.
        seed: Seed of the noise.

    Raises:
        GeometryError: The size is no multiple of the model's patch.
    """
    patch = pipe.transformer.config.pixel_patch_size
    if size_px <= 0 or size_px % patch:
        raise GeometryError(
            "The image size does not divide into whole patches",
            found=f"{size_px} px",
            expected=f"a multiple of {patch} px",
            fix=f"Choose {max(patch, round(size_px / patch) * patch)} px.",
        )
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    picture = pipe(
        prompt=[prompt],
        height=size_px,
        width=size_px,
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
