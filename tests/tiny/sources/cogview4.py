"""A tiny CogView4."""

from typing import Any

from diffusers import CogView4Pipeline, CogView4Transformer2DModel
from tests.tiny import parts
from tokenizers import processors
from torch import nn

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
CLOCK_ATOL = 1e-3  # of 1000: the pipeline tells times, here computed back from the noise levels
START = ("[gMASK]", "<sop>")


def build() -> Any:
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=3,
        text_embed_dim=parts.WIDTH,
        time_embed_dim=32,
        condition_dim=8,
        sample_size=32,
    )
    for block in transformer.transformer_blocks:
        nn.init.normal_(block.norm1.linear.weight, std=0.5)  # gates as drawn almost shut the blocks off
    tokenizer = parts.tokenizer(special_tokens=START)
    tokenizer.padding_side = "left"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{' '.join(START)} $A",
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in START],
    )
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=parts.glm(),
        vae=parts.vae(shift_factor=None),
        transformer=transformer,
        scheduler=parts.scheduler(use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.25, max_shift=0.75),
    )
