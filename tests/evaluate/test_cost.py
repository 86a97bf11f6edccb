"""Costs of a tiny source and its pixel model, measured in processes of their own."""

import resource

import pytest
from tests.tiny import tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.errors import ConfigError, SourceError, StateError
from latent2pixel.evaluate.cost import measure_cost


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    pipe = tiny_pipeline("z_image")
    pipe.vae.register_to_config(shift_factor=0.0)  # ZImagePipeline adds it to the latents before it decodes them
    folder = tmp_path_factory.mktemp("source") / "source"
    pipe.save_pretrained(folder)
    return folder


def test_figures_are_consistent_and_memory_is_the_pictures_own(source):
    ballast = bytearray(300_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > len(ballast)
    small, large = measure_cost(source, sizes_px=[64, 512], num_steps=3, seed=0)
    assert (small.size_px, large.size_px) == (64, 512)
    for figures in (small, large):
        assert figures.step_ms > 0
        assert figures.decode_ms > 0
        assert figures.image_ms > 2 * figures.step_ms + figures.decode_ms
    assert large.decode_ms > small.decode_ms
    # 512 x 512 x 4 channels in float32 are 4 MB, and a convolution holds several; the parent's 300 MB are not counted.
    assert large.peak_mb is None or 4 < large.peak_mb < 200
    assert small.peak_mb is None or 0 <= small.peak_mb < large.peak_mb


def test_pixel_model_is_measured_the_same_way(tmp_path):
    tiny_pixel_pipeline("z_image").save_pretrained(tmp_path / "pixel")
    (figures,) = measure_cost(tmp_path / "pixel", sizes_px=[64], num_steps=2, seed=0)
    assert 0 < figures.step_ms < figures.image_ms


def test_failed_measurement_tells_the_reason(source):
    with pytest.raises(StateError, match="divisible by 16"):
        measure_cost(source, sizes_px=[65], num_steps=2, seed=0)


def test_one_step_cannot_be_measured(source):
    with pytest.raises(ConfigError, match="num_steps = 1"):
        measure_cost(source, sizes_px=[64], num_steps=1, seed=0)


def test_missing_model_is_a_users_error(tmp_path):
    with pytest.raises(SourceError):
        measure_cost(tmp_path / "nothing", sizes_px=[64], num_steps=2, seed=0)


def test_misspelt_dtype_is_refused(source):
    with pytest.raises(ConfigError, match="floot32"):
        measure_cost(source, sizes_px=[64], num_steps=2, seed=0, dtype="floot32")
