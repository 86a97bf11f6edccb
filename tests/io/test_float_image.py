"""Images of floats in files: what is written by rows comes back by other rows."""

import pytest
import torch
from tests.tiny import noise

from latent2pixel.errors import StateError
from latent2pixel.io.float_image import FloatImage


def test_rows_come_back_however_they_were_cut(tmp_path):
    image_CHW = noise(3, 7, 5)
    image = FloatImage(tmp_path / "a", height=7, width=5)
    for start, end in ((4, 7), (0, 1), (1, 4)):
        image.write_rows(start, image_CHW[:, start:end])
    assert image.path.stat().st_size == image.num_bytes == 7 * 5 * 3 * 4
    assert torch.equal(image.read_rows(0, 7), image_CHW)
    assert torch.equal(image.read_rows(2, 6), image_CHW[:, 2:6])


def test_rows_of_a_channel_are_written_at_a_distance(tmp_path):
    image = FloatImage(tmp_path / "a", height=6, width=4)
    image.write_rows(0, torch.zeros(3, 6, 4))
    rows_RW = noise(2, 4)
    image.write_channel_rows(1, 2, rows_RW.numpy(), step=3)
    expected_CHW = torch.zeros(3, 6, 4)
    expected_CHW[1, 2], expected_CHW[1, 5] = rows_RW
    assert torch.equal(image.read_rows(0, 6), expected_CHW)


def test_file_that_is_cut_off(tmp_path):
    image = FloatImage(tmp_path / "a", height=6, width=4)
    image.write_rows(0, noise(3, 6, 4))
    image.path.write_bytes(image.path.read_bytes()[:-1])
    image.read_rows(0, 5)
    with pytest.raises(StateError, match="not complete"):
        image.read_rows(5, 6)
