"""A tiny PixArt-Sigma."""

from typing import Any

from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        cross_attention_dim=48,
        sample_size=128,
        patch_size=2,
        caption_channels=parts.WIDTH,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=parts.t5(),
        vae=parts.vae(shift_factor=None),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )
