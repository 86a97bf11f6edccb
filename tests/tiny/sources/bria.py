"""A tiny Bria 3.2."""

from typing import Any

from diffusers import BriaPipeline, BriaTransformer2DModel
from tests.tiny import parts
from tokenizers.processors import TemplateProcessing

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = BriaTransformer2DModel(
        in_channels=16,
        num_layers=3,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=[4, 4, 8],
    )
    # T5's ends every text with a token of its own, also an empty one, which this pipeline does not pad.
    tokenizer = parts.tokenizer()
    ending = [("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=ending)
    return BriaPipeline(
        transformer=transformer,
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.vae(shift_factor=None),
        text_encoder=parts.t5(),
        tokenizer=tokenizer,
    )
