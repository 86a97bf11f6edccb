"""A tiny Kandinsky 5 Image."""

from typing import Any

from diffusers import Kandinsky5T2IPipeline, Kandinsky5Transformer3DModel
from tests.tiny import parts
from torch import Tensor

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
FULL_PROMPTS = ["a red circle", "two blue triangles"]
"""Of one length: the pipeline pads others without a mask, and the source takes no lists."""
IGNORED = ("scale_factor",)
"""The transformer's default."""


def running(map_BZHW: Tensor) -> Tensor:
    """Return one frame, channels last."""
    return map_BZHW.movedim(1, -1).unsqueeze(1).contiguous()


def batch_first(hidden_BFhwD: Tensor) -> Tensor:
    """Return hidden states as a row of tokens."""
    return hidden_BFhwD.flatten(1, 3)


def build() -> Any:
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=parts.WIDTH,
        in_text_dim2=parts.WIDTH,
        time_dim=32,
        out_visual_dim=4,
        model_dim=48,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=3,
        axes_dims=(8, 4, 4),
    )
    return Kandinsky5T2IPipeline(
        transformer=transformer,
        vae=parts.vae(),
        text_encoder=parts.qwen25_vl(),
        tokenizer=parts.tokenizer(),
        text_encoder_2=parts.clip(),
        tokenizer_2=parts.tokenizer(),
        scheduler=parts.scheduler(shift=3.0),
    )
