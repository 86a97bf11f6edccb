"""The straight path from an image to noise, and its velocity.

Shape letters: B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor

MIN_SIGMA = 0.05
"""Smallest divisor of ``velocity_from_clean``.

The division by sigma magnifies rounding: one bfloat16 rounding of a pixel near 1 (2**-9) moves the velocity by 0.04 at
this sigma, by 2 at 1e-3.
"""


def add_noise(image_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Move an image along the straight path towards noise.

    Args:
        image_BCHW: Pixels in [-1, 1].
        noise_BCHW: Standard normal; same shape, dtype and device as the image.
        sigma_B: Noise level in [0, 1].

    Returns:
        ``(1 - sigma) * image + sigma * noise``, shape (B, C, H, W).

    Source:
        Lipman et al. 2022, "Flow Matching for Generative Modeling", section 4.1, with t = 1 - sigma.
    """
    return torch.lerp(image_BCHW, noise_BCHW, per_image(sigma_B, image_BCHW))


def velocity(image_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Return the velocity of the path, ``noise - image``: d noisy / d sigma, towards noise.

    Args:
        image_BCHW: Pixels in [-1, 1].
        noise_BCHW: Standard normal, same shape.

    Returns:
        Shape (B, C, H, W); the training target of every flow-matching source.

    Source:
        L2P (arXiv 2605.12013) section 3.3: the loss is ``||(eps - x0) - v(x_s, s)||^2``.
    """
    return noise_BCHW - image_BCHW


def clean_from_velocity(noisy_BCHW: Tensor, velocity_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Follow the velocity back to sigma 0.

    Args:
        noisy_BCHW: Image at noise level sigma.
        velocity_BCHW: Velocity towards noise at that point.
        sigma_B: Noise level in [0, 1].

    Returns:
        ``noisy - sigma * velocity``: the clean image, shape (B, C, H, W), exact on a straight path.

    Source:
        Liu et al. 2022, "Flow Straight and Fast", section 2.1: the path is a line, so one Euler step reaches its end.
    """
    return noisy_BCHW - per_image(sigma_B, noisy_BCHW) * velocity_BCHW


def velocity_from_clean(noisy_BCHW: Tensor, clean_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Turn a prediction of the clean image into a velocity; the inverse of ``clean_from_velocity`` above MIN_SIGMA.

    Args:
        noisy_BCHW: Image at noise level sigma.
        clean_BCHW: Predicted clean image in [-1, 1].
        sigma_B: Noise level in [0, 1]; below ``MIN_SIGMA`` the divisor stays at ``MIN_SIGMA``.

    Returns:
        ``(noisy - clean) / max(sigma, MIN_SIGMA)``, shape (B, C, H, W).

    Source:
        Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise" (arXiv 2511.13720), section 3:
        x-prediction with v-loss, its division clipped at 0.05.
    """
    return (noisy_BCHW - clean_BCHW) / per_image(sigma_B.clamp(min=MIN_SIGMA), noisy_BCHW)


def per_image(sigma_B: Tensor, like_BCHW: Tensor) -> Tensor:
    """Return one number an image in the image's dtype, shaped to multiply it."""
    return sigma_B.to(like_BCHW.dtype).view(-1, *[1] * (like_BCHW.ndim - 1))
