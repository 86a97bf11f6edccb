"""A tiny HunyuanImage 2.1."""

from typing import Any

from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)
from tests.tiny import parts

from latent2pixel.families import load_family

PATCH_PX = 32
UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
MASKED = {"encoder_hidden_states": "encoder_attention_mask", "encoder_hidden_states_2": "encoder_attention_mask_2"}
"""The pipeline also sends what the text encoders make of padding; the masks hide it and the cache leaves it out."""
FULL_PROMPTS = ["red circle", 'a blue square to the left of "two green" triangles']
"""ByT5 and its projection wait for words in quotes."""


def adapt(pipe: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Take out the guidance, which is no option of the pipeline's call."""
    scale = call.pop("guidance_scale")
    return call | load_family("hunyuan_image").call_options(pipe, guidance_scale=scale, num_prompts=len(call["prompt"]))


def build() -> Any:
    transformer = HunyuanImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=3,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=parts.WIDTH,
        text_embed_2_dim=parts.WIDTH,
        rope_axes_dim=(8, 8),
    )
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        block_out_channels=(32,) * 6,  # groups of its norms
        layers_per_block=1,
        spatial_compression_ratio=32,
        sample_size=384,
        scaling_factor=0.7,
    )
    return HunyuanImagePipeline(
        scheduler=parts.scheduler(shift=5.0),
        vae=vae.eval(),
        text_encoder=parts.qwen25_vl(),
        tokenizer=parts.tokenizer(),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.tokenizer(),
        transformer=transformer,
        guider=AdaptiveProjectedMixGuidance(),
        ocr_guider=AdaptiveProjectedMixGuidance(),
    )
