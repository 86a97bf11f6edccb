"""Noise levels against hand-computed values and the real scheduler."""

import pytest
import torch
from torch import tensor

from latent2pixel import flow


def test_shift_by_hand():
    # k = 3: 3 * 0.5 / (1 + 2 * 0.5) = 0.75; 3 * 0.25 / 1.5 = 0.5
    shifted = flow.shift_sigma(tensor([0.0, 0.25, 0.5, 1.0]), 3.0)
    torch.testing.assert_close(shifted, tensor([0.0, 0.5, 0.75, 1.0]))


def test_unshift_undoes_shift():
    sigma = torch.linspace(0, 1, 11)
    torch.testing.assert_close(flow.unshift_sigma(flow.shift_sigma(sigma, 3.0), 3.0), sigma)
    torch.testing.assert_close(flow.unshift_sigma(tensor([0.75]), 3.0), tensor([0.5]))


def test_sampled_sigmas_follow_the_shifted_uniform():
    sigmas = flow.sample_sigmas(20_000, shift=3.0, generator=torch.Generator().manual_seed(0))
    assert sigmas.dtype == torch.float32
    # median of the uniform, 0.5, lands at 0.75; its quartiles 0.25 and 0.75 at 0.5 and 0.9; 0.01 = 3 standard errors
    quartiles = torch.quantile(sigmas, tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, tensor([0.5, 0.75, 0.9]), atol=0.01, rtol=0)


def test_logit_normal_sigmas_centre_on_their_mean():
    generator = torch.Generator().manual_seed(0)
    sigmas = flow.sample_logit_normal_sigmas(20_000, shift=1.0, mean=1.0, std=0.5, generator=generator)
    # quantiles of a normal at -1, 0 and 1 standard deviations: sigmoid(0.5), sigmoid(1), sigmoid(1.5)
    quantiles = torch.quantile(sigmas, tensor([0.1587, 0.5, 0.8413]))
    torch.testing.assert_close(quantiles, torch.sigmoid(tensor([0.5, 1.0, 1.5])), atol=0.01, rtol=0)


def test_logit_normal_sigma_of_one_draw():
    normal = torch.randn(1, generator=torch.Generator().manual_seed(0))
    sigma = flow.sample_logit_normal_sigmas(1, shift=1.0, mean=0.5, std=2.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sigma, 1 / (1 + torch.exp(-(0.5 + 2.0 * normal))))


@pytest.mark.parametrize("draw", [flow.sample_sigmas, flow.sample_logit_normal_sigmas])
def test_draws_repeat_with_their_generator_and_leave_the_global_one(draw):
    before = torch.get_rng_state()
    first, second = (draw(4, shift=3.0, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("num_steps", "shift"), [(1, 3.0), (8, 3.0), (30, 1.0), (50, 6.0)])
def test_schedule_is_what_the_stock_pipeline_visits(num_steps, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(num_steps), mu=0.5)
    schedule = flow.sigma_schedule(num_steps, shift=shift)
    # 1e-6: the scheduler computes in numpy; the last bit of a float32 near 1 is 6e-8
    torch.testing.assert_close(schedule, scheduler.sigmas, atol=1e-6, rtol=0)
    torch.testing.assert_close(schedule[:-1] * 1000, scheduler.timesteps, atol=1e-3, rtol=0)
