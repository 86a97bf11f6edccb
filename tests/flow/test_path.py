"""Signs and values of the path, worked out by hand."""

import torch
from torch import tensor

from latent2pixel import flow


def image(*values: float) -> torch.Tensor:
    return tensor(values).view(-1, 1, 1, 1)


def test_add_noise_by_hand():
    noisy = flow.add_noise(image(0.5, 0.5, 0.5), image(-1.0, -1.0, -1.0), tensor([0.0, 0.25, 1.0]))
    assert torch.equal(noisy, image(0.5, 0.125, -1.0))  # 0.75 * 0.5 - 0.25 = 0.125


def test_velocity_points_to_noise():
    assert torch.equal(flow.velocity(image(0.5), image(-1.0)), image(-1.5))


def test_velocity_is_the_derivative_of_the_path():
    clean, noise = image(0.5), image(-1.0)
    low, high = (flow.add_noise(clean, noise, tensor([sigma])) for sigma in (0.25, 0.75))
    assert torch.equal((high - low) / 0.5, flow.velocity(clean, noise))


def test_clean_from_velocity_by_hand():
    assert torch.equal(flow.clean_from_velocity(image(0.125), image(-1.5), tensor([0.25])), image(0.5))


def test_velocity_from_clean_by_hand():
    assert torch.equal(flow.velocity_from_clean(image(0.125), image(0.5), tensor([0.25])), image(-1.5))


def test_velocity_from_clean_does_not_divide_by_zero():
    velocity = flow.velocity_from_clean(image(0.6, 0.6), image(0.5, 0.5), tensor([0.0, flow.MIN_SIGMA]))
    torch.testing.assert_close(velocity, image(2.0, 2.0))  # 0.1 / 0.05, at sigma 0 as well


def test_bfloat16_stays_bfloat16():
    clean, noise = image(0.5).bfloat16(), image(-1.0).bfloat16()
    sigma = tensor([0.25])
    noisy = flow.add_noise(clean, noise, sigma)
    assert noisy.dtype == torch.bfloat16
    assert flow.clean_from_velocity(noisy, clean, sigma).dtype == torch.bfloat16
    assert flow.velocity_from_clean(noisy, clean, sigma).dtype == torch.bfloat16
