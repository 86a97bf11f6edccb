"""A tiny FLUX.1 dev."""

from typing import Any

from diffusers import FluxPipeline, FluxTransformer2DModel
from tests.tiny import parts

UNGUIDED = {}
GUIDED = {"true_cfg_scale": 2.0, "negative_prompt": ""}
IMAGE_TO_IMAGE = True  # diffusers has a pipeline for it


def build() -> Any:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=parts.WIDTH,
        pooled_projection_dim=parts.WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return FluxPipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.vae(),
        text_encoder=parts.clip(),
        tokenizer=parts.tokenizer(max_length=77),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.tokenizer(),
        transformer=transformer,
    )
