"""A tiny AuraFlow."""

from typing import Any

from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
from tests.tiny import parts
from torch import nn

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = AuraFlowTransformer2DModel(
        sample_size=32,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=parts.WIDTH,
        caption_projection_dim=48,
        out_channels=4,
        pos_embed_max_size=256,
    )
    for block in (*transformer.joint_transformer_blocks, *transformer.single_transformer_blocks):
        nn.init.normal_(block.norm1.linear.weight, std=0.3)  # gates as drawn almost shut attention off
    return AuraFlowPipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=parts.umt5(),
        vae=parts.vae(shift_factor=None),
        transformer=transformer,
        scheduler=parts.scheduler(shift=1.73),
    )
