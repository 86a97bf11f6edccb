"""A tiny Ideogram 4."""

import math
from typing import Any

from diffusers import Ideogram4Pipeline, Ideogram4Transformer2DModel
from diffusers.pipelines.ideogram4.pipeline_ideogram4 import QWEN3_VL_ACTIVATION_LAYERS
from tests.tiny import parts
from tests.tiny.parts import flux2_vae
from torch import Tensor

from latent2pixel.model.tokens import patchify, to_sequence

TEXT_TOKENS = 23
"""Of the longer prompt of the tests. The pipeline pads to what it is told, ``collate`` as far as a batch needs."""
UNGUIDED = {"guidance_scale": 1.0, "guidance_schedule": None, "max_sequence_length": TEXT_TOKENS}
GUIDED = {"guidance_scale": 2.0, "guidance_schedule": None}
CALLS_PER_STEP = 2
"""The pipeline asks for a prediction without text even where its weight is 0."""
FIRST_SIGMA = 1 - 1 / (1 + math.exp(9))
"""The pipeline clamps the logarithm of the first step's signal-to-noise ratio."""


def running(map_BZHW: Tensor) -> Tensor:
    """Pack the image's tokens; the pipeline adds places for the text in each step."""
    return to_sequence(patchify(map_BZHW, 2, "channel last"))


def build() -> Any:
    settings = {
        "in_channels": 16,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 3,
        "intermediate_size": 64,
        "adaln_dim": 16,
        "llm_features_dim": len(QWEN3_VL_ACTIVATION_LAYERS) * parts.WIDTH,
        "mrope_section": (4, 2, 2),
    }
    return Ideogram4Pipeline(
        scheduler=parts.scheduler(),
        vae=flux2_vae(),
        text_encoder=parts.qwen3_vl(num_layers=QWEN3_VL_ACTIVATION_LAYERS[-1] + 1, whole=False),
        tokenizer=parts.tokenizer(),
        transformer=Ideogram4Transformer2DModel(**settings),
        unconditional_transformer=Ideogram4Transformer2DModel(**settings),
    )
