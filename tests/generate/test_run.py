"""Pictures of a call: by the stock pipeline and in tiles, gone on with, and what is refused before the first."""

import numpy as np
import psutil
import pytest
from PIL import Image
from tests.generate.tiled import pipeline

from latent2pixel.errors import ConfigError, GeometryError, StateError
from latent2pixel.generate import run
from latent2pixel.generate.picture import Picture, PictureSettings
from latent2pixel.generate.run import generate_pictures
from latent2pixel.generate.tiled import UnfinishedImage

SETTINGS = PictureSettings(size_px=(512, 640), num_steps=2, guidance_scale=1.0)


def bytes_in(path):
    return np.asarray(Image.open(path)).astype(int)


def tight():
    """Return a budget that is too small for a whole picture, whatever the process holds already."""
    return psutil.Process().memory_info().rss + 40 * 10**6


@pytest.mark.parametrize("options", [{}, {"noise_scale": 2.0}, {"lifted": True}])
def test_both_ways_make_the_same_picture(tmp_path, options):
    pipe = pipeline("z_image", **options)
    made = []
    for name, budget in (("whole", lambda: 10**13), ("tiles", tight)):
        picture = Picture(path=tmp_path / f"{name}.png", prompt="a red circle", seed=3)
        made += generate_pictures(pipe, [picture], SETTINGS, budget_bytes=budget())
    assert made[0].tile_px is None
    assert made[1].tile_px < 512
    whole, tiles = (bytes_in(each.picture.path) for each in made)
    assert np.abs(whole - tiles).max() <= 1
    assert whole.std() > 1


def test_tiles_go_on_after_ctrl_c(tmp_path, monkeypatch):
    pipe = pipeline("z_image")
    picture = Picture(path=tmp_path / "a.png", prompt="a red circle", seed=3)

    def stop(*arguments, before):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "require_within", stop)
    with pytest.raises(KeyboardInterrupt):
        generate_pictures(pipe, [picture], SETTINGS, budget_bytes=tight())
    monkeypatch.undo()
    unfinished = UnfinishedImage.beside(picture.path, size_px=SETTINGS.size_px)
    assert unfinished.last_step() == 0
    other = PictureSettings(size_px=SETTINGS.size_px, num_steps=3, guidance_scale=1.0)
    with pytest.raises(StateError, match="other settings"):
        generate_pictures(pipe, [picture], other, budget_bytes=tight())
    generate_pictures(pipe, [picture], SETTINGS, budget_bytes=tight())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_pipelines_of_one_prompt_refuse_a_batch(tmp_path):
    picture = Picture(path=tmp_path / "a.png", prompt="a red circle", seed=3)
    with pytest.raises(ConfigError, match="so many pictures"):
        generate_pictures(pipeline("kandinsky5"), [picture], SETTINGS, batch_size=2)


def test_size_is_checked_before_files(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    picture = Picture(path=tmp_path / "a.png", prompt="a red circle", seed=3)
    settings = PictureSettings(size_px=(512, 650))
    with pytest.raises(GeometryError) as caught:
        generate_pictures(pipeline("z_image"), [picture], settings)
    assert caught.value.fix == "Choose 656x512."


def test_more_tokens_than_positions(tmp_path):
    picture = Picture(path=tmp_path / "a.png", prompt="a red circle", seed=3)
    with pytest.raises(GeometryError, match="positions"):
        generate_pictures(pipeline("z_image"), [picture], PictureSettings(size_px=(65 * 16, 16)))
    assert list(tmp_path.iterdir()) == []
