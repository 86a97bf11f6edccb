"""A tiny PRX."""

from typing import Any

from diffusers import PRXPipeline, PRXTransformer2DModel
from tests.tiny import parts
from torch import nn

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
GUIDED_BATCH = 1  # the pipeline repeats the clock twice, whatever the number of prompts


def build() -> Any:
    transformer = PRXTransformer2DModel(
        in_channels=4,
        context_in_dim=parts.WIDTH,
        hidden_size=48,
        mlp_ratio=2.0,
        num_heads=3,
        depth=4,
        axes_dim=[8, 8],
    )
    for block in transformer.blocks:
        nn.init.normal_(block.modulation.lin.weight, std=0.3)  # zero by design, which shuts the blocks off
    return PRXPipeline(
        transformer=transformer,
        scheduler=parts.scheduler(shift=3.0),
        text_encoder=parts.t5gemma(),
        tokenizer=parts.tokenizer(max_length=256),
        vae=parts.vae(),
    )
