"""Predicted noise and DDPM velocities against diffusers' own scheduler, and as velocities of the straight path."""

import pytest
import torch
from diffusers import DDPMScheduler
from tests.tiny import noise

from latent2pixel.flow import (
    DiffusionClock,
    add_noise,
    network_input,
    target,
    velocity,
    velocity_of,
)

SCHEDULER = DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
TIMESTEPS = torch.tensor([0, 10, 500, 700])
IMAGE, NOISE = noise(4, 3, 8, 8, seed=1), noise(4, 3, 8, 8, seed=2)


@pytest.fixture
def clock():
    return DiffusionClock(SCHEDULER.alphas_cumprod)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_the_network_sees_what_diffusers_trains_on(clock, objective):
    noisy = add_noise(IMAGE, NOISE, clock.sigma(TIMESTEPS))
    expected = SCHEDULER.add_noise(IMAGE, NOISE, TIMESTEPS)
    torch.testing.assert_close(network_input(noisy, clock.sigma(TIMESTEPS), objective), expected, atol=1e-5, rtol=1e-5)


def test_targets_are_those_that_diffusers_trains_on(clock):
    sigma_B = clock.sigma(TIMESTEPS)
    assert torch.equal(target(IMAGE, NOISE, sigma_B, "eps"), NOISE)
    expected = SCHEDULER.get_velocity(IMAGE, NOISE, TIMESTEPS)
    torch.testing.assert_close(target(IMAGE, NOISE, sigma_B, "v"), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(target(IMAGE, NOISE, sigma_B, "flow"), velocity(IMAGE, NOISE))


@pytest.mark.parametrize("objective", ["flow", "eps", "v"])
def test_a_perfect_prediction_is_the_perfect_velocity(clock, objective):
    sigma_B = clock.sigma(TIMESTEPS)
    predicted = target(IMAGE, NOISE, sigma_B, objective)
    found = velocity_of(predicted, add_noise(IMAGE, NOISE, sigma_B), sigma_B, objective)
    torch.testing.assert_close(found, velocity(IMAGE, NOISE), atol=1e-4, rtol=1e-4)  # divided by 1 - sigma


def test_steps_and_noise_levels_undo_each_other(clock):
    steps = torch.arange(1000)
    assert torch.equal(clock.timestep(clock.sigma(steps)), steps)
    assert clock.timestep(torch.tensor([0.0, 1.0])).tolist() == [0, 999]
    between = 0.6 * clock.sigma(torch.tensor([500])) + 0.4 * clock.sigma(torch.tensor([501]))
    assert clock.timestep(between).item() == 500


def test_all_steps_are_drawn_alike(clock):
    drawn = clock.timestep(clock.sample(20_000, generator=torch.Generator().manual_seed(0)))
    counts = torch.bincount(drawn // 100, minlength=10)
    assert (counts - 2000).abs().max() < 4 * (20_000 * 0.1 * 0.9) ** 0.5
