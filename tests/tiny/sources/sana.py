"""A tiny Sana."""

from typing import Any

from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from tests.tiny import parts

PATCH_PX = 32
UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
WHOLE_STEPS = True  # the scheduler casts its steps to integers


def build() -> Any:
    transformer = SanaTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=3,
        attention_head_dim=16,
        num_layers=4,
        num_cross_attention_heads=3,
        cross_attention_head_dim=16,
        cross_attention_dim=48,
        caption_channels=parts.WIDTH,
        sample_size=32,
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=parts.gemma2(),
        vae=parts.dc_ae(),
        transformer=transformer,
        scheduler=scheduler,
    )
