"""Which noise levels a training step draws and which a sampler visits.

Shape letters: B batch, S sampler steps.
"""

import torch
from torch import Tensor


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Push noise levels towards noise, as larger images and larger patches need.

    Args:
        sigma: Noise levels in [0, 1], any shape.
        shift: Factor k > 0; 1 changes nothing, Z-Image uses 3 at 1024 px.

    Returns:
        ``k * sigma / (1 + (k - 1) * sigma)``, same shape; 0 and 1 stay where they are.

    Source:
        Esser et al. 2024, "Scaling Rectified Flow Transformers", equation 23; L2P (arXiv 2605.12013) section 3.3.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def unshift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Undo ``shift_sigma``: ``sigma / (k - (k - 1) * sigma)``, same shape, range [0, 1]."""
    return sigma / (shift - (shift - 1) * sigma)


def sample_sigmas(
    batch: int, *, shift: float, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw the noise levels of one training batch: uniform, then shifted.

    Args:
        batch: Number of levels.
        shift: Factor of ``shift_sigma``; the source's own at first.
        generator: Where the randomness comes from; its device must be ``device``.
        device: Where the levels are drawn and returned.

    Returns:
        sigma_B, float32, in [0, 1).

    Source:
        L2P (arXiv 2605.12013) section 3.3, "time sampling".
    """
    uniform_B = torch.rand(batch, generator=generator, device=device, dtype=torch.float32)
    return shift_sigma(uniform_B, shift)


def sample_logit_normal_sigmas(
    batch: int,
    *,
    shift: float,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw noise levels that favour the middle of the path: sigmoid of a normal variable, then shifted.

    Args:
        batch: Number of levels.
        shift: Factor of ``shift_sigma``.
        mean: Mean of the normal variable; above 0 favours noise.
        std: Its standard deviation, > 0.
        generator: Where the randomness comes from; its device must be ``device``.
        device: Where the levels are drawn and returned.

    Returns:
        sigma_B, float32, in (0, 1).

    Source:
        Esser et al. 2024, "Scaling Rectified Flow Transformers", equation 19 (section 3.1).
    """
    normal_B = torch.randn(batch, generator=generator, device=device, dtype=torch.float32)
    return shift_sigma(torch.sigmoid(mean + std * normal_B), shift)


def sigma_schedule(num_steps: int, *, shift: float) -> Tensor:
    """Return the noise levels that a stock flow pipeline visits.

    Args:
        num_steps: Euler steps, at least 1.
        shift: The scheduler's static noise shift.

    Returns:
        sigma_S of ``num_steps + 1`` values, float32: from 1 down to ``shift_sigma(1 / num_steps)``, then 0.

    Source:
        diffusers 0.42: ``get_default_z_image_sigmas`` (linspace from 1 to 1/N) handed to
        ``FlowMatchEulerDiscreteScheduler.set_timesteps``, which shifts and appends 0.
    """
    uniform_S = torch.linspace(1.0, 1.0 / num_steps, num_steps, dtype=torch.float32)
    return torch.cat([shift_sigma(uniform_S, shift), uniform_S.new_zeros(1)])
