"""Power spectra of pictures: where between coarse shapes and single pixels two models differ.

Shape letters: B batch, C channels, H height, W width, F frequencies of one picture, R rings, K bands.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent2pixel.errors import DataError

BAND_EDGES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.75)
"""In cycles a pixel. Octaves, as pictures lose a like share of power in each. Rows and columns of pixels hold nothing
above 1/2 (Nyquist); diagonals reach sqrt(1/2) = 0.707, which the last band takes in. A lower edge belongs to its
band."""
BAND_NAMES = ("0-1/16", "1/16-1/8", "1/8-1/4", "1/4-1/2", "1/2-corner")
MIN_SIDE_PX = 32
"""Below it the first band holds nothing but the window's own width, two frequencies around zero."""


@dataclass(frozen=True, kw_only=True)
class RadialSpectrum:
    """Power against frequency, all directions together."""

    frequency_R: Tensor
    """Mean frequency of each ring in cycles a pixel, float64."""
    power_BR: Tensor
    """Mean power of each ring, float64; white noise has its variance everywhere."""


def radial_spectrum(images_BCHW: Tensor) -> RadialSpectrum:
    """Return the power of pictures in rings as wide as the spacing of frequencies, up to 1/2 cycle a pixel.

    Args:
        images_BCHW: Pictures at any scale of values, 32 px or more on both sides.

    Raises:
        DataError: The pictures are smaller.
    """
    frequency_F, weight_F, power_BF = _power(images_BCHW)
    num_rings = min(images_BCHW.shape[-2:]) // 2
    # Ring r is centred at r frequencies of the shorter side; the mean at 0 is no ring.
    ring_F = (frequency_F * 2 * num_rings).round().long()
    inside_F = (ring_F >= 1) & (ring_F <= num_rings)
    ring_F, weight_F, frequency_F = ring_F[inside_F] - 1, weight_F[inside_F], frequency_F[inside_F]
    total_R = torch.zeros(num_rings, dtype=torch.float64, device=power_BF.device).index_add(0, ring_F, weight_F)
    moment_R = torch.zeros_like(total_R).index_add(0, ring_F, weight_F * frequency_F)
    empty_BR = total_R.new_zeros(len(power_BF), num_rings)
    power_BR = empty_BR.index_add(1, ring_F, power_BF[:, inside_F] * weight_F)
    return RadialSpectrum(frequency_R=moment_R / total_R, power_BR=power_BR / total_R)


def band_power(images_BCHW: Tensor) -> Tensor:
    """Return the mean power of pictures in each of the bands ``BAND_NAMES``, (B, 5), float64.

    The ratio of a pixel model's powers to its source's, for equal captions and seeds, is the fidelity of each band:
    below 1 in "1/4-1/2" the model blurs, above 1 it adds noise or edges that the source does not make.

    Args:
        images_BCHW: Pictures at any scale of values, 32 px or more on both sides.

    Raises:
        DataError: The pictures are smaller.
    """
    frequency_F, weight_F, power_BF = _power(images_BCHW)
    edges = torch.tensor(BAND_EDGES[1:], dtype=torch.float64, device=frequency_F.device)
    band_F = torch.bucketize(frequency_F, edges, right=True)
    weight_F = torch.where(frequency_F > 0, weight_F, 0)
    total_K = torch.zeros(len(BAND_NAMES), dtype=torch.float64, device=power_BF.device).index_add(0, band_F, weight_F)
    empty_BK = total_K.new_zeros(len(power_BF), len(BAND_NAMES))
    return empty_BK.index_add(1, band_F, power_BF * weight_F) / total_K


def _power(images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return frequencies in cycles a pixel, how often each counts, and the power there, mean of the channels.

    The power of each channel counts, not that of their grey: colours that fringe are errors too.

    Why a window. The Fourier transform takes a picture for one tile of an endless floor. Opposite edges do not match,
    and the step between them is power at all frequencies of its row or column, often more than the picture has there
    itself: it would hide the loss that is looked for. A Hann window fades the edges to grey. It spreads each frequency
    over its next neighbours, no matter for bands an octave wide, and what it takes of the power the division by its sum
    of squares gives back. The mean is taken off under the window, otherwise it would leak into the lowest frequencies.

    Source:
        Harris 1978, "On the use of windows for harmonic analysis with the discrete Fourier transform".
    """
    height, width = images_BCHW.shape[-2:]
    if min(height, width) < MIN_SIDE_PX:
        raise DataError(
            "The power spectrum cannot be taken",
            found=f"pictures of {width} x {height} px",
            expected=f"{MIN_SIDE_PX} px or more on both sides, so that every band holds frequencies",
            fix="Make larger pictures.",
        )
    options: Any = {"dtype": torch.float64, "device": images_BCHW.device}
    window_HW = torch.outer(torch.hann_window(height, **options), torch.hann_window(width, **options))
    pixels_BCHW = images_BCHW.double()
    mean_BC11 = (pixels_BCHW * window_HW).sum((-2, -1), keepdim=True) / window_HW.sum()
    wave_BCHf = torch.fft.rfft2((pixels_BCHW - mean_BC11) * window_HW)
    power_BHf = wave_BCHf.abs().square().mean(1) / window_HW.square().sum()
    across_f = torch.fft.rfftfreq(width, **options)
    frequency_Hf = torch.hypot(torch.fft.fftfreq(height, **options)[:, None], across_f[None])
    # A real picture's spectrum is the same at opposite frequencies, and rfft2 keeps one of the two, but for the columns
    # 0 and 1/2, which are their own opposite.
    weight_Hf = torch.where((across_f == 0) | (across_f == 0.5), 1.0, 2.0).double().expand(height, -1)
    return frequency_Hf.flatten(), weight_Hf.flatten(), power_BHf.flatten(1)
