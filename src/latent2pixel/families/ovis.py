"""Ovis-Image: FLUX.1's transformer told by Qwen3 instead of T5 and CLIP, text on the diagonal of the positions."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import OvisImagePipeline, OvisImageTransformer2DModel

from latent2pixel.families.base import Encoded, split, stacked
from latent2pixel.families.position_ids import ImageIds
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid


class Ovis(ImageIds):
    """Ovis-Image 7B.

    Source:
        diffusers 0.42, ``transformer_ovis_image.py`` and ``pipeline_ovis_image.py``.
    """

    name = "ovis"
    transformer_class = OvisImageTransformer2DModel
    pipeline_names = ("OvisImagePipeline",)
    input_projections = ("x_embedder",)
    same_at_every_step = ("context_embedder", "pos_embed")
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return Qwen3's states, zeros behind the prompt up to the pipeline's length, as nothing masks them."""
        states_BLD, *_ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return split(encoder_hidden_states=states_BLD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states, and position ids of text and image."""
        states_BLD = stacked(items, "encoder_hidden_states", model)
        ids = {"device": model.device, "dtype": states_BLD.dtype}
        places_L = torch.arange(states_BLD.shape[1], device=model.device)
        return {
            "encoder_hidden_states": states_BLD,
            "txt_ids": torch.stack([torch.zeros_like(places_L), places_L, places_L], dim=1).to(**ids),
            "img_ids": OvisImagePipeline._prepare_latent_image_ids(len(items), *grid, **ids),
        }


FAMILY = Ovis()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="OvisImagePixelTransformer2DModel", module="latent2pixel")
