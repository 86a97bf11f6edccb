"""A tiny Chroma1."""

from typing import Any

from diffusers import ChromaPipeline, ChromaTransformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=2,
    )
    return ChromaPipeline(
        scheduler=parts.scheduler(),
        vae=parts.vae(),
        text_encoder=parts.t5(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )
