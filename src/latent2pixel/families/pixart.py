"""PixArt-alpha and PixArt-Sigma: DiT with cross attention to T5, predicts noise and, dropped here, its variance."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, PixArtTransformer2DModel
from torch import Tensor

from latent2pixel.families.base import DiffusionFamily, Encoded, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tail import Keep, pass_through
from latent2pixel.model.tokens import Grid, to_grid

SOURCE_PATCH_PX = 16
"""Pixels per token and axis of the latent source."""


class PixArt(DiffusionFamily):
    """PixArt-alpha and PixArt-Sigma.

    Source:
        diffusers 0.42, ``pixart_transformer_2d.py``, ``pipeline_pixart_sigma.py`` and ``pipeline_pixart_alpha.py``; the
        schedule is that of the released pipelines.
    """

    name = "pixart"
    transformer_class = PixArtTransformer2DModel
    pipeline_names = ("PixArtSigmaPipeline", "PixArtAlphaPipeline")
    objective = "eps"
    clock_scheduler = DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    input_projections = ("pos_embed.proj",)
    tail = ("norm_out", "proj_out", "scale_shift_table")
    output_order = "channel last"

    def strip_tail(self, model: Any) -> None:
        """Keep the hidden states aside: the forward itself modulates them behind the norm, by a bare parameter."""
        pass_through(model, ("proj_out", "scale_shift_table"))
        model.norm_out = Keep()
        del model.scale_shift_table
        model.register_buffer("scale_shift_table", torch.zeros(2, model.inner_dim), persistent=False)
        self.carry(model, self.width(model))

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Return the hidden states that were kept."""
        return to_grid(model.norm_out.take(), grid)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return T5's states and their mask at the pipeline's length."""
        states_BLD, mask_BL, _, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return split(encoder_hidden_states=states_BLD, encoder_attention_mask=mask_BL)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states and mask, and the image's size and aspect ratio for models that are told them."""
        texts = {key: stacked(items, key, model) for key in ("encoder_hidden_states", "encoder_attention_mask")}
        return {**texts, "added_cond_kwargs": self._size(model, len(items), grid)}

    def _size(self, model: Any, batch: int, grid: Grid) -> dict[str, Any]:
        """Return the size conditions as the pipelines do: PixArt-alpha at 1024 px has them."""
        if not model.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        patch_px = model.config.get("pixel_patch_size", SOURCE_PATCH_PX)
        height, width = (places * patch_px for places in grid)
        return {
            "resolution": torch.tensor([[height, width]] * batch).to(model.device, model.dtype),
            "aspect_ratio": torch.tensor([[height / width]] * batch).to(model.device, model.dtype),
        }


FAMILY = PixArt()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="PixArtPixelTransformer2DModel", module="latent2pixel")
