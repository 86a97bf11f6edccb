"""What each noise level and each pixel counts in the loss.

Shape letters: B batch, C channels, H height, W width.
"""

from dataclasses import dataclass

from torch import Tensor

from latent2pixel.flow import Objective


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """Weights of a batch's squared errors; not of the paper."""

    min_snr_gamma: float | None = None
    """Bound of the signal-to-noise ratio, see ``min_snr_weight``; none weighs all noise levels alike."""
    pixels_B1HW: Tensor | None = None
    """What each pixel counts, in [0, 1]; none: all of them."""

    def of(self, sigma_B: Tensor, objective: Objective) -> Tensor:
        """Return the weights of squared errors at noise levels, to be broadcast over (B, C, H, W)."""
        weight = sigma_B.new_ones(len(sigma_B), 1, 1, 1)
        if self.min_snr_gamma is not None:
            weight = min_snr_weight(sigma_B, objective, gamma=self.min_snr_gamma).view(-1, 1, 1, 1)
        return weight if self.pixels_B1HW is None else weight * self.pixels_B1HW


def min_snr_weight(sigma_B: Tensor, objective: Objective, *, gamma: float) -> Tensor:
    """Return the weight of an objective's squared error that counts an image's error ``min(snr, gamma)``.

    Args:
        sigma_B: Noise levels in [0, 1] of the straight path, where the signal-to-noise ratio is
            ``((1 - sigma) / sigma)**2``.
        objective: What the network predicts. Its squared error is that of the image times ``sigma**-2`` for a flow,
            ``snr`` for noise and ``snr + 1`` for DDPM's velocity.
        gamma: Bound of the ratio, above 0; the source uses 5.

    Source:
        Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy" (arXiv 2303.09556), section 3.4.
    """
    snr_B = ((1 - sigma_B) / sigma_B) ** 2  # infinite without noise
    counts_B = snr_B.clamp_max(gamma)
    if objective == "flow":
        return counts_B * sigma_B**2
    return (gamma / snr_B).clamp_max(1.0) if objective == "eps" else counts_B / (snr_B + 1)
