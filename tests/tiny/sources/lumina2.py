"""A tiny Lumina-Image 2."""

from typing import Any

from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = Lumina2Transformer2DModel(
        sample_size=32,
        in_channels=4,
        hidden_size=48,
        num_layers=4,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(8, 4, 4),
        axes_lens=(300, 64, 64),
        cap_feat_dim=parts.WIDTH,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=parts.scheduler(shift=6.0),
        vae=parts.vae(),
        text_encoder=parts.gemma2(),
        tokenizer=parts.tokenizer(),
    )
