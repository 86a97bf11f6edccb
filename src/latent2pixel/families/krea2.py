"""Krea 2: single-stream DiT on text and image, 2 x 2 cells packed to tokens by the pipeline."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import Krea2Pipeline, Krea2Transformer2DModel

from latent2pixel.families.base import Encoded, TokenFamily
from latent2pixel.families.position_ids import first_ids, grid_of_ids
from latent2pixel.families.ragged import filled, ragged
from latent2pixel.families.video_vae import VideoVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

DISTILLED_MU = 1.15
"""Logarithm of the noise shift that the pipeline gives a distilled model at every image size."""


class Krea2(VideoVAE, TokenFamily):
    """Krea 2 Raw and Turbo.

    Source:
        diffusers 0.42, ``transformer_krea2.py`` and ``pipeline_krea2.py``.
    """

    name = "krea2"
    transformer_class = Krea2Transformer2DModel
    pipeline_names = ("Krea2Pipeline",)
    input_projections = ("img_in",)
    same_at_every_step = ("text_fusion", "txt_in", "rotary_emb")
    tail = ("final_layer",)
    tail_projection = "final_layer.linear"

    def grid(self, call: Call) -> Grid:
        """Read the grid off the position ids; text stands at the origin."""
        return grid_of_ids(call["position_ids"])

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Keep the ids of the first rows and columns, which stand behind those of the text."""
        whole, ids_Ln = self.grid(call), call["position_ids"]
        text_Ln, image_Ln = ids_Ln.tensor_split([len(ids_Ln) - whole[0] * whole[1]])
        return {**call, "position_ids": torch.cat([text_Ln, first_ids(image_Ln, whole, grid)])}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the states of several layers for the tokens of each prompt, and their places between the padding.

        The pipeline pads every prompt to one length, in its middle. At that length a prompt would take 31 MB.
        """
        states_BLKD, mask_BL = pipe.encode_prompt(list(prompts))
        items = ragged(mask_BL, encoder_hidden_states=states_BLKD)
        return [
            {**item, "encoder_attention_mask": mask_L.clone().cpu()}
            for item, mask_L in zip(items, mask_BL, strict=True)
        ]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states and mask at the pipeline's length, zeros for padding, and the positions of text and image."""
        states_BLKD, mask_BL = filled(items, "encoder_hidden_states", "encoder_attention_mask", model)
        return {
            "encoder_hidden_states": states_BLKD,
            "encoder_attention_mask": mask_BL,
            "position_ids": Krea2Pipeline.prepare_position_ids(mask_BL.shape[1], *grid, model.device),
        }

    def scheduler(self, pipe: Any) -> Any:
        """Return the pipeline's scheduler; a distilled model's with the one shift that the pipeline forces on it."""
        if not pipe.config.is_distilled:
            return pipe.scheduler
        shift = math.exp(DISTILLED_MU)
        return type(pipe.scheduler).from_config(pipe.scheduler.config, use_dynamic_shifting=False, shift=shift)


FAMILY = Krea2()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="Krea2PixelTransformer2DModel", module="latent2pixel")
