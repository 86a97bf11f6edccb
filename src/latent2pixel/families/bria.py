"""Bria 3.2: FLUX.1's transformer told by T5 alone, zeros behind every prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import BriaPipeline, BriaTransformer2DModel

from latent2pixel.families.base import Encoded, split, stacked
from latent2pixel.families.position_ids import ImageIds
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid


class Bria(ImageIds):
    """Bria 3.2.

    Source:
        diffusers 0.42, ``transformer_bria.py`` and ``pipeline_bria.py``.
    """

    name = "bria"
    transformer_class = BriaTransformer2DModel
    pipeline_names = ("BriaPipeline",)
    clock = "1000 sigma"
    input_projections = ("x_embedder",)
    same_at_every_step = ("context_embedder", "pos_embed")
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    def token_px(self, pipe: Any) -> int:
        """Return the pixels per token, which this pipeline calls the scale of its VAE."""
        return pipe.vae_scale_factor

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return T5's states, zeros behind the prompt up to the pipeline's length, as nothing masks them.

        The prompt without content is nothing but zeros: so the pipeline guides.
        """
        items: list[Encoded] = []
        for prompt in prompts:  # one by one, as the pipeline does; of several it warns that they were cut
            states_1LD, *_ = pipe.encode_prompt([prompt], do_classifier_free_guidance=False)
            items += split(encoder_hidden_states=states_1LD if prompt else torch.zeros_like(states_1LD))
        return items

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states, and position ids of text and image."""
        states_BLD = stacked(items, "encoder_hidden_states", model)
        ids_BN3 = BriaPipeline._prepare_latent_image_ids(1, *grid, model.device, states_BLD.dtype)
        return {
            "encoder_hidden_states": states_BLD,
            "txt_ids": torch.zeros(states_BLD.shape[1], 3, device=model.device),
            "img_ids": ids_BN3[0],
        }


FAMILY = Bria()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="BriaPixelTransformer2DModel", module="latent2pixel")
