"""A tiny Krea 2."""

from typing import Any

from diffusers import Krea2Pipeline, Krea2Transformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 0.0}
GUIDED = {"guidance_scale": 2.0}
MASKED = {"encoder_hidden_states": "encoder_attention_mask"}
"""The pipeline also sends what the text encoder makes of padding; the mask hides it and the cache leaves it out."""


def build() -> Any:
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=3,
        num_key_value_heads=1,
        intermediate_size=64,
        timestep_embed_dim=16,
        text_hidden_dim=parts.WIDTH,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(8, 4, 4),
    )
    return Krea2Pipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=parts.qwen_vae(),
        text_encoder=parts.qwen3_vl(whole=False),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
        text_encoder_select_layers=(1, 2),
    )
