"""What a look at a model in training shows.

Shape letters: B batch, C channels (3, sRGB), H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from latent2pixel.flow import add_noise, velocity
from latent2pixel.model.predict import predict_velocity

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Noise levels of the validation error: denser where the shifted schedules of large images have most of their steps."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a look at the model has shown."""

    picture_CHW: Tensor | None = None
    """In [-1, 1], for the trackers."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers by name, for the trackers."""
    error: float | None = None
    """The less, the better the model: decides which checkpoint is the best."""


Validate = Callable[[int, DiffusionPipeline], Validation | None]
"""Called with the step and the pipeline, which holds the averaged weights if the run keeps any."""


@torch.no_grad()
def errors_by_sigma(
    model: Any, images_BCHW: Tensor, conditioning: Mapping[str, Any], *, sigmas: Sequence[float] = SIGMAS
) -> dict[float, float]:
    """Return the mean squared error of a model's velocity at some noise levels; the noise is always alike.

    Args:
        model: Pixel transformer of any family.
        images_BCHW: Images that it has not been trained on, in [-1, 1].
        conditioning: The trunk's conditioning arguments for them, from ``Family.collate``.
        sigmas: Noise levels above ``MIN_SIGMA``, where every objective is divided alike.
    """
    generator, errors = torch.Generator().manual_seed(0), {}
    for sigma in sigmas:
        noise_BCHW = torch.randn(images_BCHW.shape, generator=generator).to(images_BCHW.device)
        sigma_B = torch.full((len(images_BCHW),), sigma, device=images_BCHW.device)
        noisy_BCHW = add_noise(images_BCHW, noise_BCHW, sigma_B)
        predicted_BCHW = predict_velocity(model, noisy_BCHW, sigma_B, conditioning)
        errors[sigma] = (predicted_BCHW - velocity(images_BCHW, noise_BCHW)).square().mean().item()
    return errors
