"""A tiny FLUX.2 klein, and a tiny FLUX.2 dev."""

from typing import Any

from diffusers import Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
SHIFT_TOKENS = (1024 // 16) ** 2
"""Only for so many can a scheduler hold a multiple of the shift that the pipeline computes."""


def adapt(pipe: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Put a running sample on its grid; the pipeline packs it."""
    if "latents" in call:
        rows, columns = (call[side] // pipe.image_processor.config.vae_scale_factor for side in ("height", "width"))
        call["latents"] = call["latents"].transpose(1, 2).unflatten(2, (rows, columns))
    return call


def build() -> Any:
    # The pipelines take states from behind the encoder's layers 9, 18 and 27, or 10, 20 and 30.
    return Flux2KleinPipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.flux2_vae(),
        text_encoder=parts.qwen3_causal(num_layers=28),
        tokenizer=parts.tokenizer(),
        transformer=_transformer(guidance_embeds=False),
    )


def build_dev() -> Any:
    return Flux2Pipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.flux2_vae(),
        text_encoder=parts.mistral3(num_layers=31),
        tokenizer=parts.processor(),
        transformer=_transformer(guidance_embeds=True),
    )


def _transformer(*, guidance_embeds: bool) -> Any:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=3 * parts.WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
