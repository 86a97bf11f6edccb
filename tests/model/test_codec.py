"""PixelVAE: lossless, and what a pipeline expects of a VAE."""

import pytest
import torch
from tests.tiny import noise

from latent2pixel.errors import ConfigError, GeometryError
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


def test_statistics_for_pipelines_that_normalise_change_nothing():
    codec = PixelVAE(8)
    assert torch.equal(torch.sqrt(codec.bn.running_var + codec.config["batch_norm_eps"]), torch.ones(4 * 192))
    assert not codec.bn.running_mean.any()
    assert codec.config["z_dim"] == len(codec.config["latents_mean"]) == len(codec.config["latents_std"]) == 192
    assert 2 ** len(codec.temperal_downsample) == codec.spatial_compression_ratio == 8


def test_one_frame_of_a_video_is_an_image():
    codec, image_BCHW = PixelVAE(4), noise(2, 3, 16, 24)
    folded = codec.encode(image_BCHW.unsqueeze(2)).latent_dist.mode()
    assert torch.equal(folded.squeeze(2), codec.encode(image_BCHW).latent_dist.mode())
    assert torch.equal(codec.decode(folded).sample.squeeze(2), image_BCHW)


def test_noise_scale_divides_pixels_and_gives_them_back(tmp_path):
    codec, image_BCHW = PixelVAE(4, noise_scale=2.0), noise(2, 3, 16, 24)
    folded_BZHW = codec.encode(image_BCHW).latent_dist.mode()
    assert torch.equal(folded_BZHW, PixelVAE(4).encode(image_BCHW / 2).latent_dist.mode())
    assert torch.equal(codec.decode(folded_BZHW).sample, image_BCHW)
    codec.save_pretrained(tmp_path)
    assert PixelVAE.from_pretrained(tmp_path).config["noise_scale"] == 2.0


@pytest.mark.parametrize("noise_scale", [0.0, -1.0, float("inf")])
def test_noise_scale_out_of_range_is_refused(noise_scale):
    with pytest.raises(ConfigError, match="noise scale"):
        PixelVAE(4, noise_scale=noise_scale)
