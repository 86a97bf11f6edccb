"""A tiny FIBO."""

from typing import Any

from diffusers import AutoencoderKLWan, BriaFiboPipeline, BriaFiboTransformer2DModel
from tests.tiny import parts
from torch import nn

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
FULL_PROMPTS = ["a red circle", "two blue squares"]
"""Of one length: behind others the pipeline keeps states of padding, which its mask hides. See test_bria_fibo.py."""


def build() -> Any:
    transformer = BriaFiboTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=2 * parts.WIDTH,
        text_encoder_dim=parts.WIDTH,
        axes_dims_rope=[4, 4, 8],
    )
    return BriaFiboPipeline(
        transformer=transformer,
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=_smol_lm3(),
        tokenizer=parts.tokenizer(),
    )


def _vae() -> nn.Module:
    """Return Wan 2.2's VAE: of videos, 16 pixels a cell."""
    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.1 * channel - 0.3 for channel in range(16)],
        latents_std=[0.5 + 0.2 * channel for channel in range(16)],
    ).eval()


def _smol_lm3() -> nn.Module:
    """Return SmolLM3, whose token 128000 stands for an empty prompt."""
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    config = SmolLM3Config(
        vocab_size=128001,
        hidden_size=parts.WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return SmolLM3ForCausalLM(config).eval()
