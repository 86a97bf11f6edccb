"""What a training job looks at: pictures at fixed seeds, the grid of patches, the error on held-out images.

Shape letters: B batch, C channels (3, sRGB), H height, W width.
"""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.utils.data import Subset

from latent2pixel.data.dataset import Item
from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.patch_grid import patch_grid_ratio
from latent2pixel.families import family_of
from latent2pixel.io.images import image_grid, save_image
from latent2pixel.train import TrainConfig
from latent2pixel.train.batch_loss import EncodedPrompts
from latent2pixel.train.validation import Validation, errors_by_sigma
from latent2pixel.workflow.encoders import Encoders

logger = logging.getLogger(__name__)

GRID_COLUMNS = 4


def held_out(prompts: Sequence[str], num_prompts: int) -> set[str]:
    """Return some of the distinct prompts, spread evenly.

    Raises:
        ConfigError: If none would be left.
    """
    distinct = list(dict.fromkeys(prompts))
    if num_prompts >= len(distinct):
        raise ConfigError(
            "The held-out prompts would leave none to train on",
            found=f"heldout_prompts = {num_prompts}, {len(distinct)} different prompts in the data",
            expected=f"at most {len(distinct) - 1}",
            fix="Lower heldout_prompts.",
        )
    return {distinct[index * len(distinct) // num_prompts] for index in range(num_prompts)}


def readable(items: Subset[Item]) -> Iterator[Item]:
    """Yield the images that are not damaged: those that are end no run."""
    for index in range(len(items)):
        try:
            yield items[index]
        except DataError as error:
            logger.warning("a damaged image is not looked at: %s", error.found)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Validates the model of a training job; called with the step and the pipeline."""

    encoders: Encoders
    shown: Sequence[Item]
    """Images of the data: the model draws their prompts, and its pictures stand below them."""
    heldout: Subset[Item]
    """Images that do not train; none: no error is measured."""
    encoded: EncodedPrompts
    folder: Path
    """Where the pictures go."""
    config: TrainConfig
    on_validate: Callable[[int, DiffusionPipeline], Mapping[str, float]] | None = None

    def __call__(self, step: int, pipe: DiffusionPipeline) -> Validation:
        """Draw, measure and save."""
        errors = self.errors(pipe.transformer, noise_scale=pipe.vae.config["noise_scale"]) if self.heldout else {}
        with self.encoders.lent_to(pipe):
            pictures_BCHW = self.pictures(pipe)
            metrics = dict(self.on_validate(step, pipe)) if self.on_validate else {}
        own = [item["image"] for item in self.shown]
        grid_CHW = self._beside(own, list(pictures_BCHW))
        save_image(self.folder / f"step-{step:08d}.png", grid_CHW)
        patch = pipe.transformer.config.pixel_patch_size
        if min(pictures_BCHW.shape[-2:]) >= 2 * patch and pictures_BCHW.std() > 0:
            metrics["patch grid"] = patch_grid_ratio(pictures_BCHW, patch)
        metrics |= {f"error at sigma {sigma}": error for sigma, error in errors.items()}
        error = statistics.fmean(errors.values()) if errors else None
        if error is not None:
            metrics["validation error"] = error
        return Validation(picture_CHW=grid_CHW, metrics=metrics, error=error)

    def pictures(self, pipe: Any) -> Tensor:
        """Draw the shown prompts with fixed noise, (B, 3, H, W) in [-1, 1]."""
        family, prompts = self.encoders.family, [item["prompt"] for item in self.shown]
        pipe.set_progress_bar_config(disable=True)
        pictures = family.images(
            pipe,
            prompt=prompts,
            height=self.config.image_size_px,
            width=self.config.image_size_px,
            num_inference_steps=self.config.validation_steps,
            generator=[torch.Generator().manual_seed(index) for index in range(len(prompts))],
            **family.call_options(pipe, guidance_scale=self.config.validation_guidance, num_prompts=len(prompts)),
            output_type="pt",
        )
        return pictures.float().cpu() * 2 - 1

    def errors(self, model: Any, *, noise_scale: float) -> dict[float, float]:
        """Return the mean error on the held-out images at each noise level; the scale is that of the codec."""
        family, count = family_of(model), 0
        sums: dict[float, float] = {}
        for item in readable(self.heldout):  # one by one: their sizes may differ
            images_BCHW = item["image"][None].to(model.device) / noise_scale
            told = self.encoded(item["prompt"]) | dict(item.get("told", {}))
            conditioning = family.collate(model, [told], model.grid_of(images_BCHW))
            for sigma, error in errors_by_sigma(model, images_BCHW, conditioning).items():
                sums[sigma] = sums.get(sigma, 0.0) + error
            count += 1
        return {sigma: total / count for sigma, total in sums.items()}

    def _beside(self, own: list[Tensor], drawn: list[Tensor]) -> Tensor:
        """Return rows of the data's own images, each above a row of those drawn for the same prompts."""
        if any(image.shape != drawn[0].shape for image in own):  # buckets of other aspects
            return image_grid(drawn, columns=GRID_COLUMNS)
        tiles = []
        for start in range(0, len(drawn), GRID_COLUMNS):
            row = slice(start, start + GRID_COLUMNS)
            missing = [torch.ones_like(drawn[0])] * (GRID_COLUMNS - len(drawn[row]) if start else 0)
            tiles += [*own[row], *missing, *drawn[row], *missing]
        return image_grid(tiles, columns=min(GRID_COLUMNS, len(drawn)))
