"""From a batch of images to its loss: what the trainer asks of every step.

Shape letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent2pixel.errors import ConfigError
from latent2pixel.families.base import Family
from latent2pixel.model.predict import unwrapped
from latent2pixel.train.config import TrainConfig
from latent2pixel.train.perceptual import LOADERS, Perceptual
from latent2pixel.train.step import SampleSigmas, Teacher, distillation_loss, draw, transfer_loss
from latent2pixel.train.weighting import Weighting

EncodedPrompts = Callable[[str], dict[str, Tensor]]
"""From a prompt to its cached embeddings, as the family's ``encode`` made them."""


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """The loss of a run's images, with everything that it needs beside the model."""

    family: Family
    config: TrainConfig
    encoded: EncodedPrompts
    sample_sigmas: SampleSigmas
    """Takes ``num_tokens``, the tokens of one image, too."""
    device: torch.device
    teacher: Teacher | None = None
    """Of the objective "source"."""
    perceptual: Perceptual | None = None
    noise_scale: float = 1.0
    """Of the pipeline's codec: the model sees pixels over it."""

    def __post_init__(self) -> None:
        if self.perceptual is not None and self.noise_scale != 1:
            raise ConfigError(
                "Perceptual distances know images in [-1, 1]",
                found=f"a model with noise scale {self.noise_scale:g}",
                expected="noise scale 1, or perceptual=none",
                fix="Leave the perceptual settings out, or convert without --noise-scale.",
            )

    def __call__(self, model: nn.Module, items: Sequence[Mapping[str, Any]], *, step: int, places: range) -> Tensor:
        """Return the loss of some images at their places of a step's batch, a float32 scalar."""
        config = self.config
        images_BCHW = torch.stack([item["image"] for item in items]).to(self.device) / self.noise_scale
        grid = unwrapped(model).grid_of(images_BCHW)
        num_tokens = unwrapped(model).pipeline_tokens(grid)
        drawn = draw(
            tuple(images_BCHW.shape[1:]),  # type: ignore[arg-type]
            sample_sigmas=partial(self.sample_sigmas, num_tokens=num_tokens),
            caption_dropout=config.caption_dropout,
            seed=config.seed,
            step=step,
            places=places,
            noise_seeds=[item["seed"] for item in items] if config.fixed_noise else None,
            device=self.device,
        )
        told = [
            self._told(item, dropped=dropped) for item, dropped in zip(items, drawn.dropped_B.tolist(), strict=True)
        ]
        conditioning = self.family.collate(unwrapped(model), told, grid)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            if self.teacher is not None:
                return distillation_loss(model, images_BCHW, drawn, conditioning, teacher=self.teacher)
            weighting, perceptual = self._weighting(items), self.perceptual
            return transfer_loss(model, images_BCHW, drawn, conditioning, weighting=weighting, perceptual=perceptual)

    def _told(self, item: Mapping[str, Any], *, dropped: bool) -> dict[str, Tensor]:
        """Return what the model is told of an item: where the caption is dropped, nothing of the image either."""
        if dropped:
            return self.encoded(self.family.null_prompt)
        return self.encoded(item["prompt"]) | (item["told"] if self.family.reads_images else {})

    def _weighting(self, items: Sequence[Mapping[str, Any]]) -> Weighting | None:
        """Return what noise levels and pixels count, none where all count alike."""
        masked, gamma = "weight_1HW" in items[0], self.config.min_snr_gamma
        if gamma is None and not masked:
            return None
        pixels_B1HW = torch.stack([item["weight_1HW"] for item in items]).to(self.device) if masked else None
        return Weighting(min_snr_gamma=gamma, pixels_B1HW=pixels_B1HW)


def perceptual_of(config: TrainConfig, device: torch.device) -> Perceptual | None:
    """Load the perceptual distance that a run asks for, none if it asks for none.

    Raises:
        ConfigError: The network is no distance of images.
        CheckpointError: It is missing or damaged.
    """
    if config.perceptual_model is None:
        return None
    distance = LOADERS[config.perceptual](Path(config.perceptual_model), device=device)
    return Perceptual(distance=distance, weight=config.perceptual_weight, max_sigma=config.perceptual_max_sigma)
