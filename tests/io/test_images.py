"""Images between files and tensors: exact, and refused when they are not whole."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latent2pixel.errors import DataError, OutputFolderError
from latent2pixel.io.images import image_grid, load_bytes, load_image, png_of, save_image


@pytest.fixture
def noise_bytes():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_every_byte_has_its_value(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(np.stack([ramp] * 3, axis=-1)).save(tmp_path / "ramp.png")
    image = load_image(tmp_path / "ramp.png")
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (-1, 1)
    torch.testing.assert_close(image[0].flatten(), torch.linspace(-1, 1, 256), atol=1e-6, rtol=0)


def test_png_round_trip_is_exact(tmp_path, noise_bytes):
    Image.fromarray(noise_bytes).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.shape == (3, 24, 32)
    save_image(tmp_path / "deep" / "b.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "b.png")), noise_bytes)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_file_is_refused(tmp_path, noise_bytes, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise_bytes).save(path)
    whole = path.read_bytes()
    for length in (0, 1, 20, len(whole) // 2, len(whole) - len(whole) // 10):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be read"):
            load_image(path)


def test_flipped_bytes_never_raise_anything_else(tmp_path, noise_bytes):
    """BMP has no checksum: a flipped header byte can claim a picture of 137 gigapixels."""
    Image.fromarray(noise_bytes).save(tmp_path / "a.bmp")
    whole = (tmp_path / "a.bmp").read_bytes()
    refused = 0
    for position in range(54):
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        (tmp_path / "b.bmp").write_bytes(flipped)
        try:
            load_image(tmp_path / "b.bmp")
        except DataError:
            refused += 1
    assert refused > 10


def test_other_size_is_refused(tmp_path, noise_bytes):
    Image.fromarray(noise_bytes).save(tmp_path / "a.png")
    with pytest.raises(DataError) as error:
        load_image(tmp_path / "a.png", size_px=32)
    assert "32 x 24 px" in error.value.found


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.png.bak"])
def test_ending_without_format_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="ending"):
        save_image(tmp_path / name, torch.zeros(3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_image_on_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png", torch.zeros(3, 8, 8))
    before = (tmp_path / "a.png").read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputFolderError, match="disk is full"):
        save_image(tmp_path / "a.png", torch.ones(3, 8, 8))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_grid_places_images_in_rows():
    images = [torch.full((3, 4, 6), value) for value in (-1.0, -0.5, 0.5)]
    grid = image_grid(images, columns=2)
    assert grid.shape == (3, 4 + 2 + 4, 6 + 2 + 6)
    assert torch.equal(grid[:, :4, :6], images[0])
    assert torch.equal(grid[:, :4, 8:], images[1])
    assert torch.equal(grid[:, 6:, :6], images[2])
    assert grid[:, 6:, 8:].abs().max() == 0


def test_bytes_as_a_png_come_back_exactly(tmp_path):
    bytes_CHW = torch.arange(3 * 5 * 17).reshape(3, 5, 17).to(torch.uint8)
    (tmp_path / "x.png").write_bytes(png_of(bytes_CHW))
    assert torch.equal(load_bytes(tmp_path / "x.png"), bytes_CHW)
