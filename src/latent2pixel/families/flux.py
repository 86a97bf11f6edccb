"""FLUX.1: dual- then single-stream DiT, 2 x 2 cells packed to tokens by the pipeline."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from latent2pixel.families.base import Encoded, split, stacked
from latent2pixel.families.position_ids import ImageIds
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid

GUIDANCE = 3.5
"""Guidance that a distilled model is told in training: the pipeline's default."""


class Flux(ImageIds):
    """FLUX.1 dev, schnell and Krea.

    Source:
        diffusers 0.42, ``transformer_flux.py`` and ``pipeline_flux.py``.
    """

    name = "flux"
    transformer_class = FluxTransformer2DModel
    pipeline_names = ("FluxPipeline",)
    input_projections = ("x_embedder",)
    same_at_every_step = ("context_embedder", "pos_embed")
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return T5's states, always padded to the pipeline's length as nothing masks them, and CLIP's pooled one."""
        states_BLD, pooled_BD, _ = pipe.encode_prompt(list(prompts), None)
        return split(encoder_hidden_states=states_BLD, pooled_projections=pooled_BD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return both states, position ids of text and image, and the guidance that distilled models embed."""
        states_BLD = stacked(items, "encoder_hidden_states", model)
        guidance_B = torch.full((len(items),), GUIDANCE, device=model.device)
        ids = {"device": model.device, "dtype": states_BLD.dtype}
        return {
            "encoder_hidden_states": states_BLD,
            "pooled_projections": stacked(items, "pooled_projections", model),
            "txt_ids": torch.zeros(states_BLD.shape[1], 3, **ids),
            "img_ids": FluxPipeline._prepare_latent_image_ids(len(items), *grid, **ids),
            "guidance": guidance_B if model.config["guidance_embeds"] else None,
        }


FAMILY = Flux()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="FluxPixelTransformer2DModel", module="latent2pixel")
