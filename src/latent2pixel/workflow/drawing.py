"""Pictures of many prompts at one size, for scores on the way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from latent2pixel.families import family_of

PIXELS_AT_A_TIME = 60 * 64 * 64
"""Pixels sampled at a time: 60 miniature pictures, or one large one."""


def draw_pictures(
    pipe: Any, prompts: Sequence[str], *, size_px: int, num_steps: int, guidance_scale: float, seed: int
) -> list[np.ndarray]:
    """Return one picture for each prompt, as sRGB bytes of shape (H, W, 3).

    Args:
        pipe: Latent or pixel pipeline of a known family.
        prompts: What to draw.
        size_px: Width and height.
        num_steps: Steps of the scheduler.
        guidance_scale: The pipeline's guidance.
        seed: Of the noise of all of them.
    """
    family, batch = family_of(pipe.transformer), max(1, PIXELS_AT_A_TIME // size_px**2)
    generator, pictures = torch.Generator().manual_seed(seed), []
    for start in range(0, len(prompts), batch):
        chosen = list(prompts[start : start + batch])
        pictures += family.images(
            pipe,
            prompt=chosen,
            height=size_px,
            width=size_px,
            num_inference_steps=num_steps,
            generator=generator,
            **family.call_options(pipe, guidance_scale=guidance_scale, num_prompts=len(chosen)),
        )
    return [np.array(picture) for picture in pictures]
