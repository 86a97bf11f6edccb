"""Ideogram 4: one network in two places, and noise levels that its pipeline makes itself."""

import pytest
import torch
from diffusers.pipelines.ideogram4.pipeline_ideogram4 import _logit_normal_sigmas, _resolution_aware_mu
from tests.tiny import GRID, PROMPTS, noise, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.convert.convert import with_parts
from latent2pixel.families import load_family
from latent2pixel.families.ideogram4 import SCHEDULE_STD
from latent2pixel.model.predict import predict_velocity

FAMILY = load_family("ideogram4")


def test_the_pixel_model_takes_both_places():
    pipe, other = (tiny_pixel_pipeline("ideogram4", seed=seed) for seed in (0, 1))
    assert pipe.unconditional_transformer is pipe.transformer
    replaced = with_parts(pipe, {"transformer": other.transformer})
    assert replaced.unconditional_transformer is other.transformer


@torch.no_grad()
def test_a_dropped_caption_in_a_batch_is_the_call_without_text():
    pipe = tiny_pixel_pipeline("ideogram4")
    model, noisy, sigma_B = pipe.transformer, noise(2, 3, 64, 96), torch.tensor([0.3, 0.6])
    items = FAMILY.encode(pipe, [PROMPTS[0], FAMILY.null_prompt])
    assert len(items[1]["encoder_hidden_states"]) == 0
    both = predict_velocity(model, noisy, sigma_B, FAMILY.collate(model, items, GRID))
    alone = FAMILY.collate(model, items[1:], GRID)
    assert alone["position_ids"].shape[1] == GRID[0] * GRID[1]
    torch.testing.assert_close(predict_velocity(model, noisy[1:], sigma_B[1:], alone), both[1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_training_sees_the_noise_levels_of_the_pipelines_steps(scale):
    scheduler, num_tokens = FAMILY.with_shift(tiny_pipeline("ideogram4").scheduler, scale), 4096
    # 1024 x 1024 px; the quantiles of the training's levels are those of the steps
    sigmas = _logit_normal_sigmas(9, _resolution_aware_mu(1024, 1024, 0.0), std=SCHEDULE_STD)[1:]
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    drawn = FAMILY.sample_sigmas(
        200_000, scheduler=scheduler, num_tokens=num_tokens, generator=torch.Generator().manual_seed(0)
    )
    quantiles = drawn.quantile(torch.linspace(8 / 9, 1 / 9, 8))
    # 200,000 samples: a quantile has the error 0.001
    torch.testing.assert_close(quantiles, scheduler.sigmas[:-1], atol=5e-3, rtol=0)
