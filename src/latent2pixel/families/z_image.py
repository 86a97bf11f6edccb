"""Z-Image: single-stream DiT, tokens (row, column, channel) patchified inside the model, samples as lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, MapFamily
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

PATCH_KEY = "2-1"
"""Spatial and temporal patch, the key under which the model files its input projection and its final layer."""


class ZImage(MapFamily):
    """Z-Image and Z-Image-Turbo.

    Source:
        diffusers 0.42, ``transformer_z_image.py`` and ``pipeline_z_image.py``.
    """

    name = "z_image"
    transformer_class = ZImageTransformer2DModel
    pipeline_names = ("ZImagePipeline",)
    status = "whole method on the miniature"
    sign = -1  # the pipeline negates the network's output
    clock = "1 - sigma"
    sample_argument = "x"
    timestep_argument = "t"
    input_projections = (f"all_x_embedder.{PATCH_KEY}",)
    same_at_every_step = ("cap_embedder", "context_refiner")
    tail = (f"all_final_layer.{PATCH_KEY}",)
    tail_projection = f"all_final_layer.{PATCH_KEY}.linear"
    image_blocks = ("layers",)
    token_order = "channel last"
    output_order = "channel last"

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 input channels.

        Raises:
            SourceError: For an Omni model, or one with other patch sizes than 2 x 2 x 1.
        """
        patches = list(zip(source_config["all_patch_size"], source_config["all_f_patch_size"], strict=True))
        omni = source_config.get("siglip_feat_dim") is not None
        if patches != [(self.latent_patch, 1)] or omni:
            raise SourceError(
                "This Z-Image variant is no plain text-to-image model",
                found=f"patches {patches}, {'with' if omni else 'without'} reference images (siglip_feat_dim)",
                expected=f"patches [({self.latent_patch}, 1)] without reference images",
                fix="Use Z-Image or Z-Image-Turbo as the source.",
            )
        return super().pixel_config(source_config, factor)

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the lengths of the tables of rotary positions: the first is of the text."""
        _, rows, columns = config["axes_lens"]
        return PositionLimit(rows=rows, columns=columns)

    def width(self, model: Any) -> int:
        """Return ``dim``."""
        return model.config["dim"]

    def map_of(self, call: Call) -> Tensor:
        """Stack the list of (Z, 1, H, W)."""
        return torch.stack(list(call["x"])).squeeze(2)

    def sample(self, map_BZHW: Tensor, call: Call) -> list[Tensor]:
        """Return a list of (Z, 1, H, W)."""
        return list(map_BZHW.unsqueeze(2).unbind())

    def carried(self, model: Any, output: list[Tensor], grid: Grid) -> Tensor:
        """Stack the list and undo the model's unpatchify."""
        return super().carried(model, torch.stack(output).squeeze(2), grid)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return ``{"cap_feats": (L, width)}`` for each prompt, L its own length."""
        # encode_prompt writes the chat template into the list it is given, so it gets a copy.
        captions, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return [{"cap_feats": caption_LD.cpu()} for caption_LD in captions]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return ``{"cap_feats": [...]}``, unpadded: the model pads and masks ragged captions itself."""
        return {"cap_feats": [item["cap_feats"].to(device=model.device, dtype=model.dtype) for item in items]}


FAMILY = ZImage()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="ZImagePixelTransformer2DModel", module="latent2pixel")
