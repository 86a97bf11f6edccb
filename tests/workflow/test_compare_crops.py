"""Crops at 100 %: the right places, scaled as a whole picture is, drawn by both models and gone on with."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import PROMPTS, tiny_pipeline, tiny_pixel_pipeline
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import ConfigError, GeometryError, SourceError, StateError
from latent2pixel.report.crops_page import PLACES, UPSAMPLINGS, CropsPage, crops_of

PAGE = CropsPage(source="source", pixel="pixel", crop_px=24, num_crops=5)


def random_picture(size, *, seed):
    values = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.to(torch.uint8).numpy())


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_crops_are_those_of_the_whole_picture_scaled_up(upsampling):
    source, pixel = random_picture((40, 24), seed=0), random_picture((160, 96), seed=1)
    page = CropsPage(source="source", pixel="pixel", crop_px=24, num_crops=5, upsampling=upsampling)
    whole = np.asarray(source.resize(pixel.size, UPSAMPLINGS[upsampling]), dtype=int)
    native = np.asarray(pixel, dtype=int)
    pairs = crops_of(source, pixel, page)
    assert len(pairs) == len(PLACES)
    for (across, down), (scaled, own) in zip(PLACES, pairs, strict=True):
        left, top = round(across * (160 - 24)), round(down * (96 - 24))
        place = (slice(top, top + 24), slice(left, left + 24))
        assert np.array_equal(np.asarray(own, dtype=int), native[place])
        # One level: Pillow rounds the filter's weights once for each box.
        assert np.abs(np.asarray(scaled, dtype=int) - whole[place]).max() <= 1
    assert np.abs(np.asarray(pairs[0][0], dtype=int) - np.asarray(pairs[1][0], dtype=int)).max() > 50


@pytest.mark.parametrize(
    ("source_px", "pixel_px"), [((64, 64), (64, 64)), ((32, 32), (64, 96)), ((8, 8), (16, 16))], ids=str
)
def test_pictures_that_cannot_be_shown(source_px, pixel_px):
    with pytest.raises(GeometryError, match="crop by crop"):
        crops_of(random_picture(source_px, seed=0), random_picture(pixel_px, seed=1), PAGE)


@pytest.mark.parametrize("setting", [{"upsampling": "nearest"}, {"num_crops": 0}, {"num_crops": 6}, {"crop_px": 0}])
def test_settings_that_do_not_exist(setting):
    with pytest.raises(ConfigError, match="page of crops"):
        CropsPage(source="source", pixel="pixel", **setting)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_pipeline("z_image").save_pretrained(folder / "source")
    tiny_pixel_pipeline("z_image").save_pretrained(folder / "pixel")
    return str(folder / "source"), str(folder / "pixel")


def run(models, out, *more):
    sizes = ["--size", "128", "--source-size", "64", "--set", "num_steps=1", "--set", "crop_px=40"]
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    arguments = ["compare-crops", *models, *prompts, "--out", str(out), *sizes, *more]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_command_draws_once_and_writes_a_page_complete_in_itself(models, tmp_path):
    result = run(models, tmp_path / "out", "--json")
    page = tmp_path / "out" / "crops.html"
    assert json.loads(result.stdout) == {"page": str(page)}
    text = page.read_text(encoding="utf-8")
    assert all(prompt in text for prompt in PROMPTS)
    assert text.count("data:image/png;base64,") == len(PROMPTS) * 3 * 2
    assert "http" not in text.replace("http-equiv", "")
    sizes = {
        side: {Image.open(file).size for file in (tmp_path / "out" / side).rglob("*.png")}
        for side in ("source", "pixel")
    }
    assert sizes == {"source": {(64, 64)}, "pixel": {(128, 128)}}
    drawn = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    run(models, tmp_path / "out", "--set", "upsampling=bicubic")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")} == drawn
    assert "64 px, bicubic" in page.read_text(encoding="utf-8")
    with pytest.raises(StateError):
        run(models, tmp_path / "out", "--set", "num_steps=2")


def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(models, tmp_path):
    for more, error in (
        (["--source-size", "128"], ConfigError),
        (["--size", "136"], GeometryError),  # no multiple of the patch
        (["--size", "1040"], GeometryError),  # 65 tokens, one more than there are positions
        (["--set", "upsampling=nearest"], ConfigError),
        (["--set", "crop_px=144"], ConfigError),  # of pictures of 128 px
    ):
        with pytest.raises(error):
            run(models, tmp_path / "out", *more)
    with pytest.raises(SourceError, match="no pixel pipeline"):
        run((models[0], models[0]), tmp_path / "out")
    assert list(tmp_path.rglob("*.png")) == []
