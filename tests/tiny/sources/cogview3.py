"""A tiny CogView3-Plus."""

from typing import Any

from diffusers import CogVideoXDDIMScheduler, CogView3PlusPipeline, CogView3PlusTransformer2DModel
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=3,
        text_embed_dim=parts.WIDTH,
        time_embed_dim=32,
        condition_dim=8,
        sample_size=32,
        pos_embed_max_size=24,
    )
    scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=4.0,
        timestep_spacing="trailing",
    )
    return CogView3PlusPipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=parts.t5(),
        vae=parts.vae(shift_factor=None),
        transformer=transformer,
        scheduler=scheduler,
    )
