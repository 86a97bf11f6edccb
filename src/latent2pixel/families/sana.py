"""Sana: DiT with linear attention and cross attention to Gemma 2, one latent cell of 32 x 32 pixels a token."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from torch import Tensor

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, MapFamily, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid

INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
"""Lines that the pipeline writes before every prompt but a negative one."""
TEXTS = ("encoder_hidden_states", "encoder_attention_mask")


class Sana(MapFamily):
    """Sana and SANA 1.5.

    The stock pipeline needs ``use_resolution_binning=False``: it takes image sizes from ``sample_size``, which is the
    source's. Its released scheduler drops fractions of the clock, so that the model is told a noise level up to 0.001
    too low.

    Source:
        diffusers 0.42, ``sana_transformer.py`` and ``pipeline_sana.py``.
    """

    name = "sana"
    transformer_class = SanaTransformer2DModel
    pipeline_names = ("SanaPipeline",)
    clock = "1000 sigma"
    latent_patch = 1
    patch_px = 32  # 32 pixels a cell of its autoencoder
    input_projections = ("patch_embed.proj",)
    tail = ("norm_out", "proj_out", "scale_shift_table")  # the norm is handed the table

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 channels in and out.

        Raises:
            SourceError: For Sana-Sprint, which is told a guidance and another clock, and for other patches than 1 x 1.
        """
        found = {key: source_config[key] for key in ("guidance_embeds", "timestep_scale", "patch_size")}
        expected = {"guidance_embeds": False, "timestep_scale": 1.0, "patch_size": self.latent_patch}
        if found != expected:
            raise SourceError(
                "This Sana variant does not predict the velocity of a straight path, or has other patches",
                found=", ".join(f"{key} {value}" for key, value in found.items()),
                expected=", ".join(f"{key} {value}" for key, value in expected.items()),
                fix="Use Sana or SANA 1.5 as the source, not Sana-Sprint.",
            )
        return super().pixel_config(source_config, factor)

    @torch.no_grad()
    def vae_mean(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return the latents of an autoencoder that has no distribution: (B, Z, H, W), float32."""
        return pipe.vae.encode(images_BCHW.to(pipe.vae.device, pipe.vae.dtype)).latent.float()

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return Gemma's states and mask at the pipeline's length; the empty prompt has no instruction before it."""
        has_null = self.null_prompt in prompts
        encoded = pipe.encode_prompt(
            list(prompts), has_null, negative_prompt=self.null_prompt, complex_human_instruction=INSTRUCTION
        )
        items = split(**dict(zip(TEXTS, encoded[:2], strict=True)))
        if not has_null:
            return items
        nulls = split(**dict(zip(TEXTS, encoded[2:], strict=True)))
        choices = zip(prompts, items, nulls, strict=True)
        return [null if prompt == self.null_prompt else item for prompt, item, null in choices]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states and mask; nothing depends on the grid."""
        return {key: stacked(items, key, model) for key in TEXTS}


FAMILY = Sana()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="SanaPixelTransformer2DModel", module="latent2pixel")
