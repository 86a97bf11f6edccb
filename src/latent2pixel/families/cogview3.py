"""CogView3-Plus: DiT with joint attention to T5 and SDXL's size conditions, predicts DDPM's velocity."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogView3PlusTransformer2DModel

from latent2pixel.families.base import DiffusionFamily, Encoded, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid

SOURCE_PATCH_PX = 16
"""Pixels per token and axis of the latent source."""


class CogView3(DiffusionFamily):
    """CogView3-Plus.

    Source:
        diffusers 0.42, ``transformer_cogview3plus.py`` and ``pipeline_cogview3plus.py``; schedule of
        ``scripts/convert_cogview3_to_diffusers.py``.
    """

    name = "cogview3"
    transformer_class = CogView3PlusTransformer2DModel
    pipeline_names = ("CogView3PlusPipeline",)
    objective = "v"
    clock_scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        snr_shift_scale=4.0,
    )
    input_projections = ("patch_embed.proj",)

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the side of the table of positions, from whose corner the transformer takes as many as it needs."""
        return PositionLimit(rows=config["pos_embed_max_size"], columns=config["pos_embed_max_size"])

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return T5's states, always padded to the pipeline's length as nothing masks them.

        The empty prompt's are zeros, as the pipeline's are without a negative prompt.
        """
        states_BLD, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        empty_B11 = torch.tensor([prompt == self.null_prompt for prompt in prompts], device=states_BLD.device)[
            :, None, None
        ]
        return split(encoder_hidden_states=states_BLD.masked_fill(empty_B11, 0.0))

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states and the image's size as original and target size, cropped nowhere."""
        patch_px = model.config.get("pixel_patch_size", SOURCE_PATCH_PX)
        size_px = [float(places * patch_px) for places in grid]
        size_B2 = torch.tensor([size_px] * len(items), dtype=model.dtype, device=model.device)
        return {
            "encoder_hidden_states": stacked(items, "encoder_hidden_states", model),
            "original_size": size_B2,
            "target_size": size_B2,
            "crop_coords": torch.zeros_like(size_B2),
        }


FAMILY = CogView3()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="CogView3PlusPixelTransformer2DModel", module="latent2pixel")
