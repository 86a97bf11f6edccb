"""The clock of DDPM sources: whole steps, each with its noise level.

Shape letters: B batch, T steps.
"""

import torch
from torch import Tensor


class DiffusionClock:
    """Turns noise levels of the straight path into steps of a diffusion schedule, and back.

    Args:
        alphas_cumprod_T: Share of the image's variance at each step, falling, as diffusers' schedulers hold it.

    Source:
        Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 4: ``a**2 = alphas_cumprod``.
    """

    def __init__(self, alphas_cumprod_T: Tensor) -> None:
        alphas_T = alphas_cumprod_T.double().cpu()
        noise_T, image_T = (1 - alphas_T).sqrt(), alphas_T.sqrt()
        self.sigmas_T = noise_T / (noise_T + image_T)

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return the step whose noise level is nearest, int64."""
        sigmas_T = self.sigmas_T.to(sigma_B.device)
        above_B = torch.searchsorted(sigmas_T, sigma_B.double().contiguous()).clamp(1, len(sigmas_T) - 1)
        below_is_nearer_B = sigma_B - sigmas_T[above_B - 1] < sigmas_T[above_B] - sigma_B
        return above_B - below_is_nearer_B.long()

    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return the noise level of a step in [0, 1], float32."""
        return self.sigmas_T.to(timestep_B.device)[timestep_B.long()].float()

    def sample(self, batch: int, *, generator: torch.Generator | None) -> Tensor:
        """Draw the noise levels of one training batch: steps, all alike; sigma_B, float32.

        Source:
            Ho et al. 2020, algorithm 1.
        """
        return self.sigma(torch.randint(len(self.sigmas_T), (batch,), generator=generator))
