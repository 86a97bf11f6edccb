"""Lumina-Image 2: single-stream DiT, tokens (row, column, channel) patchified inside the model, Gemma 2 before them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import Lumina2Transformer2DModel
from torch import Tensor

from latent2pixel.families.base import Encoded, MapFamily, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid

TEXTS = ("encoder_hidden_states", "encoder_attention_mask")


class Lumina2(MapFamily):
    """Lumina-Image 2.0.

    Source:
        diffusers 0.42, ``transformer_lumina2.py`` and ``pipeline_lumina2.py``.
    """

    name = "lumina2"
    transformer_class = Lumina2Transformer2DModel
    pipeline_names = ("Lumina2Pipeline",)
    sign = -1  # the pipeline negates the network's output
    clock = "1 - sigma"
    input_projections = ("x_embedder",)
    same_at_every_step = ("context_refiner",)
    tail = ("norm_out",)  # projects as well
    tail_projection = "norm_out.linear_2"
    image_blocks = ("layers",)
    token_order = "channel last"
    output_order = "channel last"
    pipeline_patch_px = 16  # the pipeline divides image sizes by 8 px a cell, whatever the codec's

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the lengths of the tables of rotary positions: the first is of the text."""
        _, rows, columns = config["axes_lens"]
        return PositionLimit(rows=rows, columns=columns)

    def width(self, model: Any) -> int:
        """Return ``hidden_size``."""
        return model.config["hidden_size"]

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return 1 - sigma, rounded as this pipeline does: it subtracts last."""
        return 1 - 1000 * sigma_B / 1000

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return Gemma's states and mask at the pipeline's length; the empty prompt has no system prompt before it."""
        has_null = self.null_prompt in prompts
        encoded = pipe.encode_prompt(list(prompts), has_null, negative_prompt=self.null_prompt)
        items = split(**dict(zip(TEXTS, encoded[:2], strict=True)))
        if not has_null:
            return items
        nulls = split(**dict(zip(TEXTS, encoded[2:], strict=True)))
        choices = zip(prompts, items, nulls, strict=True)
        return [null if prompt == self.null_prompt else item for prompt, item, null in choices]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states and mask; the model finds places and lengths itself."""
        return {key: stacked(items, key, model) for key in TEXTS}


FAMILY = Lumina2()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="Lumina2PixelTransformer2DModel", module="latent2pixel")
