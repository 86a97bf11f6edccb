"""A tiny HunyuanDiT 1.2."""

from typing import Any

from diffusers import DDIMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from tests.tiny import parts
from torch import nn

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def build() -> Any:
    transformer = HunyuanDiT2DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=32,
        hidden_size=48,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=parts.WIDTH,
        cross_attention_dim_t5=parts.WIDTH,
        pooled_projection_dim=16,
        use_style_cond_and_image_meta_size=False,
    )
    # The release comes with DDPM, whose steps add noise; this one takes the same schedule without.
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    return HunyuanDiTPipeline(
        vae=parts.vae(shift_factor=None),
        text_encoder=_bert(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.tokenizer(),
    )


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=32,
        hidden_size=parts.WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    return BertModel(config).eval()
