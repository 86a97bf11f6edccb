"""PixelVAE: lossless, and what a pipeline expects of a VAE."""

import pytest
import torch
from tests.tiny import noise

from latent2pixel.errors import GeometryError
from latent2pixel.model.codec import PixelVAE


@pytest.mark.parametrize("factor", [1, 2, 8, 32])
def test_round_trip_is_exact(factor):
    codec, image = PixelVAE(factor), noise(2, 3, 64, 96)
    folded = codec.encode(image).latent_dist.sample(torch.Generator())
    assert folded.shape == (2, 3 * factor**2, 64 // factor, 96 // factor)
    assert torch.equal(codec.decode(folded).sample, image)
    assert torch.equal(codec.encode(image, return_dict=False)[0].mode(), folded)
    assert torch.equal(codec.decode(folded, return_dict=False)[0], image)


def test_channels_hold_the_cell_row_by_row():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert PixelVAE(2, in_channels=1).encode(image).latent_dist.mode()[0, :, 0, 1].tolist() == [2.0, 3.0, 6.0, 7.0]


def test_pipelines_read_the_latent_geometry():
    config = PixelVAE(8).config
    assert 2 ** (len(config.block_out_channels) - 1) == 8
    assert (config.latent_channels, config.scaling_factor, config.shift_factor) == (192, 1.0, 0.0)


def test_nothing_trains_and_pixels_stay_float32():
    codec = PixelVAE(8).to(torch.bfloat16)
    assert list(codec.parameters()) == []
    assert codec.dtype == torch.float32
    assert codec.device == torch.device("cpu")


def test_save_and_load(tmp_path):
    PixelVAE(4).save_pretrained(tmp_path)
    loaded = PixelVAE.from_pretrained(tmp_path)
    assert loaded.config.factor == 4
    assert loaded.config.latent_channels == 48


@pytest.mark.parametrize("factor", [0, 3, 12])
def test_factor_must_be_a_power_of_two(factor):
    with pytest.raises(GeometryError, match="powers of two"):
        PixelVAE(factor)
