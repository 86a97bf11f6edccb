"""One picture from a pixel pipeline."""

from pathlib import Path
from typing import Any

import torch

from latent2pixel.errors import ConfigError, GeometryError
from latent2pixel.families import family_of
from latent2pixel.generate.prepare import prepare_for_sampling, remembering
from latent2pixel.io.images import require_format, save_image


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
        ConfigError: There are no steps to take.
        DataError: The file's ending names no image format.
        GeometryError: The size is no multiple of the model's patch.
        OutputFolderError: The file cannot be written, or the disk is full.
    """
    require_format(out)
    if num_steps < 1:
        raise ConfigError(
            "A picture needs steps", found=num_steps, expected="a number above 0", fix="Choose more steps, such as 30."
        )
    patch = pipe.transformer.config.pixel_patch_size
    if size_px <= 0 or size_px % patch:
        raise GeometryError(
            "The image size does not divide into whole patches",
            found=f"{size_px} px",
            expected=f"a multiple of {patch} px",
            fix=f"Choose {max(patch, round(size_px / patch) * patch)} px.",
        )
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    prepare_for_sampling(pipe)
    family = family_of(pipe.transformer)
    with remembering(pipe):
        picture = family.images(
            pipe,
            prompt=[prompt],
            height=size_px,
            width=size_px,
            num_inference_steps=num_steps,
            generator=torch.Generator().manual_seed(seed),
            **family.call_options(pipe, guidance_scale=guidance_scale, num_prompts=1),
            output_type="pt",
        )[0]
    save_image(out, picture * 2 - 1)
