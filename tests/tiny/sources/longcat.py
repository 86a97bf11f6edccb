"""A tiny LongCat-Image, with as many latent channels as the pipeline insists on."""

from typing import Any

from diffusers import LongCatImagePipeline, LongCatImageTransformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0, "enable_prompt_rewrite": False}
GUIDED = {"guidance_scale": 2.0, "enable_prompt_rewrite": False}
GUIDED_BATCH = 1  # the pipeline's own empty prompt is one, whatever the number of prompts


def build() -> Any:
    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=parts.WIDTH,
        pooled_projection_dim=parts.WIDTH,
        axes_dims_rope=[4, 4, 8],
    )
    return LongCatImagePipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.vae(latent_channels=16),
        text_encoder=parts.qwen25_vl(),
        tokenizer=parts.tokenizer(),
        text_processor=parts.processor(),
        transformer=transformer,
    )
