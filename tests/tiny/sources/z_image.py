"""A tiny Z-Image."""

from typing import Any

from diffusers import ZImagePipeline, ZImageTransformer2DModel
from tests.tiny import parts
from torch import nn

UNGUIDED = {"guidance_scale": 0.0}
GUIDED = {"guidance_scale": 2.0}
IMAGE_TO_IMAGE = True  # diffusers has a pipeline for it


def build() -> Any:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=48,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
        cap_feat_dim=parts.WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 64, 64],
    )
    # Before the other parts are drawn: the golden losses hang on the order.
    for parameter in (transformer.x_pad_token, transformer.cap_pad_token):
        nn.init.normal_(parameter, std=0.05)
    return ZImagePipeline(
        scheduler=parts.scheduler(shift=3.0),
        vae=parts.vae(),
        text_encoder=parts.qwen3(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )
