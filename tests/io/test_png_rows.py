"""PNGs written by rows, as Pillow reads them."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from latent2pixel.errors import DataError, OutputFolderError
from latent2pixel.io.disk_space import require_space
from latent2pixel.io.png_rows import read_record, write_png

PICTURE_HW3 = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
RECORD = {"prompt": "ein Fuchs im Schnee, 狐狸", "seed": 3, "version": "0.1.0"}


@pytest.mark.parametrize("cuts", [(0, 9), (0, 1, 4, 9), (0, 8, 9)])
def test_pillow_reads_what_was_written(tmp_path, cuts):
    bands = [PICTURE_HW3[low:high] for low, high in pairwise(cuts)]
    write_png(tmp_path / "a.png", bands, height=9, width=5, record=RECORD)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), PICTURE_HW3)
        assert picture.info["Description"] == RECORD["prompt"]
        assert picture.info["Software"] == "latent2pixel 0.1.0"
    assert read_record(tmp_path / "a.png") == RECORD


def test_smooth_pictures_become_small(tmp_path):
    smooth_HW3 = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 300, 3))
    write_png(tmp_path / "a.png", [smooth_HW3], height=200, width=300)
    assert (tmp_path / "a.png").stat().st_size < smooth_HW3.size / 100


def test_pictures_of_others_have_no_record(tmp_path):
    Image.fromarray(PICTURE_HW3).save(tmp_path / "a.png")
    assert read_record(tmp_path / "a.png") is None
    Image.fromarray(PICTURE_HW3).save(tmp_path / "b.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        read_record(tmp_path / "b.jpg")


def test_nothing_stays_where_the_rows_end_early(tmp_path):
    def rows():
        yield PICTURE_HW3[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_png(tmp_path / "a.png", rows(), height=9, width=5)
    assert list(tmp_path.iterdir()) == []


def test_room_on_the_disk(tmp_path):
    require_space(tmp_path / "not" / "yet" / "a.png", 1)
    with pytest.raises(OutputFolderError, match="no room") as caught:
        require_space(tmp_path / "not" / "yet" / "a.png", 10**18)
    assert caught.value.expected == "1000000000.00 GB"
