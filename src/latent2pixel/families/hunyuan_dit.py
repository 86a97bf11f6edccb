"""HunyuanDiT: DiT with long skips and cross attention to BERT and mT5, predicts DDPM's velocity."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from latent2pixel.errors import SourceError
from latent2pixel.families.base import DiffusionFamily, Encoded, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

TEXTS = ("encoder_hidden_states", "text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5")
LENGTHS = (77, 256)
"""Tokens of BERT and mT5, as the pipeline encodes them."""
BASE_TOKENS = 32
"""Tokens along a side of the image to whose positions others are scaled: 512 px, as the pipeline has it."""
ORIGINAL_PX = 1024
"""Original size that the pipeline tells a model which is told one, whatever the image's."""


class HunyuanDiT(DiffusionFamily):
    """HunyuanDiT 1.2.

    Source:
        diffusers 0.42, ``hunyuan_transformer_2d.py`` and ``pipeline_hunyuandit.py``; schedule of release 1.2.
    """

    name = "hunyuan_dit"
    transformer_class = HunyuanDiT2DModel
    pipeline_names = ("HunyuanDiTPipeline",)
    objective = "v"
    clock_scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.018, beta_schedule="scaled_linear")
    input_projections = ("pos_embed.proj",)
    image_blocks = ("blocks",)
    output_order = "channel last"
    pipeline_patch_px = 16  # the pipeline computes positions for it, whatever the model's

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with other channels and without a predicted variance.

        Raises:
            SourceError: For releases before 1.2, which are told image sizes and a style.
        """
        if source_config["use_style_cond_and_image_meta_size"]:
            raise SourceError(
                "This HunyuanDiT is told image sizes and a style, and was trained with another noise schedule",
                found="use_style_cond_and_image_meta_size true: a release before 1.2",
                expected="HunyuanDiT 1.2",
                fix="Use Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers as the source.",
            )
        return {**super().pixel_config(source_config, factor), "learn_sigma": False}

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Compute the rotary positions anew: they scale with the grid."""
        cosines_Ln, _ = call["image_rotary_emb"]
        return {**call, "image_rotary_emb": _rotary(cosines_Ln.shape[-1], grid, device=cosines_Ln.device)}

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return the nearest step as a float: its dtype is that of the time embedding."""
        return super().timestep(sigma_B).float()

    def output(self, map_BZHW: Tensor, call: Call) -> Tensor:
        """Put an empty variance behind the map: the pipeline drops half of the channels, whatever they are."""
        return torch.cat([map_BZHW, torch.zeros_like(map_BZHW)], dim=1)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return BERT's and mT5's states and masks, both at their fixed lengths."""
        encoded: list[Tensor] = []
        for index, length in enumerate(LENGTHS):
            states_BLD, _, mask_BL, _ = pipe.encode_prompt(
                list(prompts),
                do_classifier_free_guidance=False,
                max_sequence_length=length,
                text_encoder_index=index,
            )
            encoded += [states_BLD, mask_BL]
        return split(**dict(zip(TEXTS, encoded, strict=True)))

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return both encoders' states and masks, rotary positions, and the sizes and style that are passed unused."""
        patch_px = model.config.get("pixel_patch_size", self.patch_px)
        rows, columns = (places * patch_px for places in grid)
        sizes = [ORIGINAL_PX, ORIGINAL_PX, rows, columns, 0, 0]
        return {
            **{key: stacked(items, key, model) for key in TEXTS},
            "image_meta_size": torch.tensor([sizes] * len(items), dtype=model.dtype, device=model.device),
            "style": torch.zeros(len(items), dtype=torch.long, device=model.device),
            "image_rotary_emb": _rotary(model.inner_dim // model.num_heads, grid, device=model.device),
        }


def _rotary(width: int, grid: Grid, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the positions of a grid for heads of a width, as the pipeline does."""
    region = get_resize_crop_region_for_grid(grid, BASE_TOKENS)
    return get_2d_rotary_pos_embed(width, region, grid, device=device, output_type="pt")


FAMILY = HunyuanDiT()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="PixelHunyuanDiT2DModel", module="latent2pixel")
