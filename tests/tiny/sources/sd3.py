"""A tiny Stable Diffusion 3.5."""

from typing import Any

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
IMAGE_TO_IMAGE = True  # diffusers has a pipeline for it


def build() -> Any:
    transformer = SD3Transformer2DModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=2 * parts.WIDTH,
        caption_projection_dim=48,
        pooled_projection_dim=2 * parts.WIDTH,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    encoder_3 = parts.t5(width=2 * parts.WIDTH)
    clips = {f"text_encoder{end}": parts.clip(projected=True) for end in ("", "_2")}
    tokenizers = {f"tokenizer{end}": parts.tokenizer(max_length=77) for end in ("", "_2", "_3")}
    return StableDiffusion3Pipeline(
        scheduler=parts.scheduler(shift=3.0),
        vae=parts.vae(),
        text_encoder_3=encoder_3,
        transformer=transformer,
        **clips,
        **tokenizers,
    )
