"""Spectra that are known beforehand: white noise, one sine, pink noise, edges that do not wrap."""

import math

import pytest
import torch

from latent2pixel.errors import DataError
from latent2pixel.evaluate.spectrum import BAND_NAMES, band_power, radial_spectrum


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sine(*, across, size=128, amplitude=0.7, down=0.0):
    """A wave of so many cycles a pixel."""
    y, x = torch.meshgrid(torch.arange(size).double(), torch.arange(size).double(), indexing="ij")
    return (amplitude * torch.sin(2 * math.pi * (across * x + down * y) + 0.3)).expand(1, 3, size, size)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (45, 51)])
def test_white_noise_has_its_variance_at_every_frequency(shape):
    images_BCHW = 3 + 0.5 * noise(60, 3, *shape)
    spectrum = radial_spectrum(images_BCHW)
    power_R = spectrum.power_BR.mean(0)
    assert power_R[4:] == pytest.approx(torch.full_like(power_R[4:], 0.25), rel=0.06)
    power_K = band_power(images_BCHW).mean(0)
    assert power_K[1:].tolist() == pytest.approx([0.25] * 4, rel=0.05)
    # The mean, which is taken off, takes some of the noise at the lowest frequencies with it.
    assert 0.85 * 0.25 < power_K[0] < 1.02 * 0.25


def test_rings_lie_where_their_frequencies_are():
    frequency_R = radial_spectrum(noise(1, 3, 64, 64)).frequency_R
    assert frequency_R == pytest.approx(torch.arange(1, 33, dtype=torch.float64) / 64, abs=0.25 / 64)


@pytest.mark.parametrize(
    ("across", "down", "band"),
    [(4.4 / 128, 0, 0), (0, 12.3 / 128, 1), (0.14, 0.14, 2), (0.3, 0.3, 3), (0.45, 0.45, 4)],
)
def test_one_sine_is_in_its_band_only(across, down, band):
    power_K = band_power(sine(across=across, down=down))[0]
    others = [index for index in range(5) if index != band]
    assert power_K[others].max() < 0.01 * power_K[band]


def test_one_sine_has_half_its_squared_amplitude_in_all():
    """Parseval: the mean of the power over all frequencies is the picture's variance under the window."""
    spectrum = radial_spectrum(sine(across=16 / 64, size=64))
    peak = spectrum.power_BR[0].argmax().item()
    assert peak == 15
    num_in_ring = torch.tensor([2 * math.pi * ring for ring in range(1, 33)])
    total = (spectrum.power_BR[0] * num_in_ring).sum() / 64**2
    assert total.item() == pytest.approx(0.7**2 / 2, rel=0.08)


def test_pink_noise_has_its_slope():
    """Power as 1 / f^2, the law of natural images, cut out of a larger field so that the edges do not wrap."""
    size = 512
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    frequency[0, 0] = torch.inf
    waves = torch.fft.rfft2(noise(6, 3, size, size)) / frequency
    images_BCHW = torch.fft.irfft2(waves, s=(size, size))[..., :200, :200]
    spectrum = radial_spectrum(images_BCHW)
    x_R, y_R = spectrum.frequency_R[4:90].log(), spectrum.power_BR.mean(0)[4:90].log()
    slope = ((x_R - x_R.mean()) * (y_R - y_R.mean())).sum() / (x_R - x_R.mean()).square().sum()
    assert slope.item() == pytest.approx(-2, abs=0.1)


def test_edges_that_do_not_wrap_hide_nothing():
    """A ramp from black to white has no detail; without a window its step from edge to edge would be in every band."""
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    faint_noise = 0.03 * noise(1, 3, 64, 64)
    with_ramp, alone = band_power(ramp + faint_noise)[0], band_power(faint_noise)[0]
    assert with_ramp[2:].tolist() == pytest.approx(alone[2:].tolist(), rel=0.05)


@pytest.mark.parametrize("shape", [(40, 50), (33, 47)])
def test_half_a_transform_counts_as_the_whole(shape):
    """Against all frequencies of the full transform, each once."""
    images_BCHW = noise(2, 3, *shape) + sine(across=0.2, size=50)[..., : shape[0], : shape[1]]
    window = torch.outer(*(torch.hann_window(side, dtype=torch.float64) for side in shape))
    centred = images_BCHW - (images_BCHW * window).sum((2, 3), keepdim=True) / window.sum()
    power = (torch.fft.fft2(centred * window).abs() ** 2).mean(1) / (window**2).sum()
    frequency = torch.hypot(torch.fft.fftfreq(shape[0])[:, None], torch.fft.fftfreq(shape[1])[None])
    for index, (low, high) in enumerate([(1e-6, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1)]):
        inside = (frequency >= low) & (frequency < high)
        assert band_power(images_BCHW)[:, index].tolist() == pytest.approx(power[:, inside].mean(1).tolist())


def test_a_blurred_picture_loses_its_high_bands():
    images_BCHW = noise(4, 3, 64, 64)
    blurred_BCHW = torch.nn.functional.avg_pool2d(images_BCHW, 3, stride=1, padding=1)
    ratio_K = band_power(blurred_BCHW).mean(0) / band_power(images_BCHW).mean(0)
    assert ratio_K.diff().max() < 0
    assert ratio_K[0] > 0.8
    assert ratio_K[3] < 0.2
    assert len(BAND_NAMES) == len(ratio_K)


def test_small_pictures_are_refused():
    with pytest.raises(DataError, match="32 px or more"):
        band_power(noise(1, 3, 31, 64))
