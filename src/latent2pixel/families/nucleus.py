"""Nucleus-MoE-Image: DiT with experts and cross-attention to text, 2 x 2 cells packed to tokens by the pipeline."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import NucleusMoEImageTransformer2DModel

from latent2pixel.families.base import Encoded, TokenFamily
from latent2pixel.families.ragged import padded, ragged
from latent2pixel.families.video_vae import VideoVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

POSITIONS, LONGEST_TEXT = 4096, 1024
"""Positions on either side of zero, and the longest text that the pipeline allows: it follows half of the image."""
TEXT_MULTIPLE = 8
"""The pipeline pads texts to a multiple of so many tokens."""


class Nucleus(VideoVAE, TokenFamily):
    """Nucleus-MoE-Image.

    Source:
        diffusers 0.42, ``transformer_nucleusmoe_image.py`` and ``pipeline_nucleusmoe_image.py``.
    """

    name = "nucleus"
    transformer_class = NucleusMoEImageTransformer2DModel
    pipeline_names = ("NucleusMoEImagePipeline",)
    sign = -1  # the pipeline negates the network's output
    input_projections = ("img_in",)

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with the values of a pixel token in, and as many out, the experts one by one.

        Their grouped product, which the released config switches on, knows no autocast: in training it meets bfloat16
        and float32.
        """
        return {**super().pixel_config(source_config, factor), "use_grouped_mm": False}

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return what the table of positions leaves beside a text: half of an image lies on either side of zero."""
        del config
        side = 2 * (POSITIONS - LONGEST_TEXT)
        return PositionLimit(rows=side, columns=side)

    def unreached(self, model: Any) -> tuple[str, ...]:
        """Name the norms of text queries: text only gives keys and values."""
        return tuple(f"transformer_blocks.{index}.attn.norm_added_q" for index in range(len(model.transformer_blocks)))

    def grid(self, call: Call) -> Grid:
        """Read the grid off the image shapes."""
        _, rows, columns = call["img_shapes"][0]
        return rows, columns

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Tell the other grid of every sample."""
        return {**call, "img_shapes": [(1, *grid)] * len(call["img_shapes"])}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the states of each prompt at its own length."""
        longest = pipe.default_max_sequence_length
        states_BLD, mask_BL = pipe.encode_prompt(list(prompts), max_sequence_length=longest)
        return ragged(mask_BL, encoder_hidden_states=states_BLD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the padded states, zeros for padding, their mask where there is any, and the image shapes."""
        states_BLD, mask_BL = padded(items, "encoder_hidden_states", model, multiple=TEXT_MULTIPLE)
        return {
            "encoder_hidden_states": states_BLD,
            "encoder_hidden_states_mask": mask_BL,
            "img_shapes": [(1, *grid)] * len(items),
        }


FAMILY = Nucleus()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="NucleusMoEImagePixelTransformer2DModel", module="latent2pixel")
