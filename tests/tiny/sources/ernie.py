"""A tiny ERNIE-Image."""

from typing import Any

from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel
from tests.tiny import parts
from torch import Tensor

from latent2pixel.model.tokens import patchify

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}


def running(map_BZHW: Tensor) -> Tensor:
    """Stack 2 x 2 cells to channels."""
    return patchify(map_BZHW, 2, "channel first")


def batch_first(hidden_LBD: Tensor) -> Tensor:
    """Return hidden states with the batch before the tokens."""
    return hidden_LBD.transpose(0, 1)


def build() -> Any:
    transformer = ErnieImageTransformer2DModel(
        hidden_size=48,
        num_attention_heads=3,
        num_layers=3,
        ffn_hidden_size=64,
        in_channels=16,
        out_channels=16,
        text_in_dim=parts.WIDTH,
        rope_axes_dim=(8, 4, 4),
    )
    return ErnieImagePipeline(
        transformer=transformer,
        vae=parts.flux2_vae(),
        text_encoder=parts.mistral3(num_layers=2).model,
        tokenizer=parts.tokenizer(),
        scheduler=parts.scheduler(shift=3.0),
    )
