"""What a network was trained to predict, in terms of the straight path: its velocity, DDPM's noise or DDPM's velocity.

DDPM's noisy image, ``a x0 + b eps`` with ``a**2 + b**2 = 1``, is the straight path's at ``sigma = b / (a + b)``, scaled
to unit variance. So one noisy image and one noise level serve all three.

Shape letters: B batch, C channels, H height, W width.
"""

from typing import Literal

from torch import Tensor

from latent2pixel.flow.path import MIN_SIGMA, per_image, velocity

Objective = Literal["flow", "eps", "v"]


def network_input(noisy_BCHW: Tensor, sigma_B: Tensor, objective: Objective) -> Tensor:
    """Return a noisy image as the network takes it: as it is, or at DDPM's scale.

    Args:
        noisy_BCHW: ``(1 - sigma) x0 + sigma eps``.
        sigma_B: Noise level in [0, 1].
        objective: Of the network.
    """
    if objective == "flow":
        return noisy_BCHW
    return noisy_BCHW / per_image(_norm(sigma_B), noisy_BCHW)


def target(image_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor, objective: Objective) -> Tensor:
    """Return what the network should predict: the training target.

    Args:
        image_BCHW: Pixels in [-1, 1].
        noise_BCHW: Standard normal, same shape.
        sigma_B: Noise level in [0, 1].
        objective: Of the network.

    Source:
        "eps": Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 14. "v": Salimans & Ho 2022,
        "Progressive Distillation", section 4: ``v = a eps - b x0``.
    """
    if objective == "flow":
        return velocity(image_BCHW, noise_BCHW)
    if objective == "eps":
        return noise_BCHW
    a_B111, b_B111 = (per_image(part, image_BCHW) for part in _weights(sigma_B))
    return a_B111 * noise_BCHW - b_B111 * image_BCHW


def velocity_of(predicted_BCHW: Tensor, noisy_BCHW: Tensor, sigma_B: Tensor, objective: Objective) -> Tensor:
    """Return the straight path's velocity, ``eps - x0``, that a network's prediction stands for.

    Args:
        predicted_BCHW: What the network predicted.
        noisy_BCHW: ``(1 - sigma) x0 + sigma eps``, before ``network_input``.
        sigma_B: Noise level in [0, 1]. Predicted noise tells nothing of the image at 1: closer to it than ``MIN_SIGMA``
            the divisor stays there.
        objective: Of the network.
    """
    if objective == "flow":
        return predicted_BCHW
    if objective == "eps":
        return (predicted_BCHW - noisy_BCHW) / per_image((1 - sigma_B).clamp(min=MIN_SIGMA), noisy_BCHW)
    a_B111, b_B111 = (per_image(part, noisy_BCHW) for part in _weights(sigma_B))
    scaled_BCHW = network_input(noisy_BCHW, sigma_B, objective)
    return (b_B111 - a_B111) * scaled_BCHW + (a_B111 + b_B111) * predicted_BCHW


def _weights(sigma_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return DDPM's weights a and b of image and noise."""
    return (1 - sigma_B) / _norm(sigma_B), sigma_B / _norm(sigma_B)


def _norm(sigma_B: Tensor) -> Tensor:
    return ((1 - sigma_B) ** 2 + sigma_B**2).sqrt()
