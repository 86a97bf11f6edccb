"""What is measured of every pixel model of an ablation: error, score, patch grid.

Shape letters: B batch, C channels (3, sRGB), H and W image size in pixels.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent2pixel.evaluate.patch_grid import patch_grid_ratio
from latent2pixel.families import family_of
from latent2pixel.io.images import image_of
from latent2pixel.train.validation import SIGMAS, errors_by_sigma
from latent2pixel.workflow.ablation.images import AblationImages
from latent2pixel.workflow.drawing import PIXELS_AT_A_TIME, draw_pictures
from latent2pixel.world.captions import Caption, heldout_captions
from latent2pixel.world.score import score_images

NUM_SHOWN = 8
"""Pictures that are kept for the strip."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A look at a pixel model."""

    numbers: Mapping[str, Any]
    """error, errors (one for each of ``train.validation.SIGMAS``), score, score_error, chance, grid."""
    pictures: list[Tensor]
    """The first ones, each (3, H, W) in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """Measures the models of one seed, all alike."""

    images: AblationImages
    image_size_px: int

    def measure(self, pipe: Any) -> Measured:
        """Measure a pixel pipeline: error on the validation images, score and patch grid of held-out captions."""
        pipe.transformer.eval()
        pictures = self.draw(pipe)
        errors = self.errors(pipe)
        patch = pipe.transformer.config.pixel_patch_size
        return Measured(
            numbers={
                "error": statistics.fmean(errors),
                "errors": errors,
                **self.score(pictures),
                "grid": patch_grid_ratio(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), patch),
            },
            pictures=[image_of(picture) for picture in pictures[:NUM_SHOWN]],
        )

    @torch.no_grad()
    def errors(self, pipe: Any) -> list[float]:
        """Return the mean squared velocity error at each of ``SIGMAS``."""
        model, dataset = pipe.transformer, self.images.validation(self.image_size_px)
        family, batch = family_of(model), max(1, PIXELS_AT_A_TIME // self.image_size_px**2)
        encoded = family.encode(pipe, dataset.prompts)
        sums = dict.fromkeys(SIGMAS, 0.0)
        for start in range(0, len(dataset), batch):
            chosen = range(start, min(start + batch, len(dataset)))
            images_BCHW = torch.stack([dataset[index]["image"] for index in chosen]).to(model.device)
            conditioning = family.collate(model, [encoded[index] for index in chosen], model.grid_of(images_BCHW))
            for sigma, error in errors_by_sigma(model, images_BCHW, conditioning).items():
                sums[sigma] += error * len(chosen) / len(dataset)
        return list(sums.values())

    def score(self, pictures: list[np.ndarray]) -> dict[str, float]:
        """Return the verifier's score of the held-out captions' pictures."""
        score = score_images(pictures, self._wanted())
        return {"score": score.score, "score_error": score.standard_error, "chance": score.chance}

    def draw(self, pipe: Any) -> list[np.ndarray]:
        """Return one picture for each held-out caption, as bytes of (H, W, 3)."""
        config = self.images.config
        pipe.set_progress_bar_config(disable=True)
        return draw_pictures(
            pipe,
            [caption.text for caption in self._wanted()],
            size_px=self.image_size_px,
            num_steps=config.num_steps,
            guidance_scale=config.guidance_scale,
            seed=self.images.seed,
        )

    def _wanted(self) -> list[Caption]:
        # Of another seed than the validation images.
        return heldout_captions(self.images.level, self.images.config.num_captions, seed=self.images.seed + 1)
