"""Pictures by the stock pipeline as it is: whole images in memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latent2pixel.families import family_of


def sample_whole(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    size_px: tuple[int, int],
    num_steps: int,
    guidance_scale: float,
) -> list[Tensor]:
    """Sample pictures in one call of the pipeline.

    Args:
        pipe: Pixel pipeline.
        prompts: What to show.
        seeds: Seed of each one's noise.
        size_px: Height and width, multiples of the patch.
        num_steps: Steps of the scheduler.
        guidance_scale: Guidance of the pipeline.

    Returns:
        Images in [-1, 1], (3, H, W) each.
    """
    family = family_of(pipe.transformer)
    images = family.images(
        pipe,
        prompt=list(prompts),
        height=size_px[0],
        width=size_px[1],
        num_inference_steps=num_steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **family.call_options(pipe, guidance_scale=guidance_scale, num_prompts=len(prompts)),
        output_type="pt",
    )
    return [image_CHW * 2 - 1 for image_CHW in images]
