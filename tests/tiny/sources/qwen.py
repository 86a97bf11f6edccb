"""A tiny Qwen-Image."""

from typing import Any

from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from tests.tiny import parts

UNGUIDED = {"true_cfg_scale": 1.0}
GUIDED = {"true_cfg_scale": 2.0, "negative_prompt": ""}
IMAGE_TO_IMAGE = True  # diffusers has a pipeline for it


def build() -> Any:
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    return QwenImagePipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.qwen_vae(),
        text_encoder=parts.qwen25_vl(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )
