"""A tiny Nucleus-MoE-Image."""

from typing import Any

from diffusers import NucleusMoEImagePipeline, NucleusMoEImageTransformer2DModel
from tests.tiny import parts
from torch import nn

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
MASKED = {"encoder_hidden_states": "encoder_hidden_states_mask"}
"""The pipeline also sends what the text encoder makes of padding; the mask hides it and the cache leaves it out."""


def build() -> Any:
    transformer = NucleusMoEImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=3,
        num_key_value_heads=1,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=(4, 4, 8),
        # Dense, then experts: each of four takes half of the tokens.
        dense_moe_strategy="leave_first_block_dense",
        num_experts=4,
        moe_intermediate_dim=32,
        capacity_factors=2.0,
    )
    # diffusers leaves the experts as they lie in memory.
    for name, parameter in transformer.named_parameters():
        if ".experts." in name:
            nn.init.normal_(parameter, std=0.1)
    return NucleusMoEImagePipeline(
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.qwen_vae(),
        text_encoder=parts.qwen3_vl(num_layers=8),  # the pipeline takes the last layer but seven
        processor=parts.processor(),
        transformer=transformer,
    )
