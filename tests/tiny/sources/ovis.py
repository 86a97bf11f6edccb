"""A tiny Ovis-Image."""

from typing import Any

from diffusers import OvisImagePipeline, OvisImageTransformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    return OvisImagePipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.vae(),
        text_encoder=parts.qwen3(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )
