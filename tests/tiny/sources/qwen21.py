"""A tiny Qwen-Image 2.1."""

from typing import Any

from diffusers import QwenImage21Pipeline, QwenImage21Transformer2DModel
from tests.tiny import parts

UNGUIDED = {"true_cfg_scale": 1.0}
GUIDED = {"true_cfg_scale": 2.0, "negative_prompt": ["", ""]}  # one a prompt: the pipeline repeats none
GRID_MULTIPLE = 2
"""The pipeline cuts images to whole groups of 2 x 2 tokens."""
PROMPTS = ["a red circle", "two blue triangles"]
"""Of equal length: the transformer puts the image behind the padding of the longest prompt of a batch."""
IGNORED = ("kv_cache", "kv_cache_mode")
"""Keys and values of the text, kept from step to step: only speed."""


def build() -> Any:
    transformer = QwenImage21Transformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=3,
        context_in_dim=parts.WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    return QwenImage21Pipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.qwen21_vae(),
        text_encoder=parts.qwen3_vl(),
        processor=parts.processor(),
        transformer=transformer,
    )
