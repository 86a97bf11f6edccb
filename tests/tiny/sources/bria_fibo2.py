"""A tiny FIBO 2.0."""

from typing import Any

from diffusers import BriaFibo2Pipeline, BriaFibo2Transformer2DModel
from diffusers.pipelines.bria_fibo2.pipeline_bria_fibo2 import TEXT_ENCODER_OUT_LAYERS
from tests.tiny import parts

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
FULL_PROMPTS = ["a red circle", "two blue squares"]
"""Of one length: behind others the pipeline keeps states of padding, which its mask hides. See test_bria_fibo2.py."""


def build() -> Any:
    transformer = BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=48,
        n_layers=len(TEXT_ENCODER_OUT_LAYERS),
        n_refiner_layers=1,
        n_heads=3,
        cap_feat_dim=3 * parts.WIDTH,
        injection_layer_ids=tuple(range(1, len(TEXT_ENCODER_OUT_LAYERS))),  # the first input is for the gist
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=4,
        # Between the lengths of the tests' prompts, so that their gists differ in length too.
        gist_min_text_len=18,
        gist_max_text_len=24,
        axes_dims=(8, 4, 4),
        axes_lens=(64, 64, 64),
    )
    return BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=parts.scheduler(use_dynamic_shifting=True),
        vae=parts.flux2_vae(),
        text_encoder=parts.qwen3_vl(num_layers=max(map(max, TEXT_ENCODER_OUT_LAYERS))),
        processor=parts.processor(),
    )
