"""A tiny HiDream-I1."""

from typing import Any

from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
BATCH_AXIS = {"encoder_hidden_states_llama3": 1}
"""Layers come before the batch."""


def build() -> Any:
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        caption_channels=[parts.WIDTH, parts.WIDTH],
        text_emb_dim=2 * parts.WIDTH,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(16, 16),
        llama_layers=[0, 1, 1, 1],
    )
    clips = {f"text_encoder{end}": parts.long_clip() for end in ("", "_2")}
    tokenizers = {f"tokenizer{end}": parts.tokenizer() for end in ("", "_2", "_3", "_4")}
    return HiDreamImagePipeline(
        scheduler=parts.scheduler(shift=3.0),
        vae=parts.vae(),
        text_encoder_3=parts.t5(),
        text_encoder_4=parts.llama(),
        transformer=transformer,
        **clips,
        **tokenizers,
    )
