"""Large pictures in a process of their own: what it takes at its fullest moment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.tiny import tiny_pixel_pipeline

from latent2pixel.io.float_image import PIXEL_BYTES
from latent2pixel.io.png_rows import read_record

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the largest resident size is read from /proc")
PICTURE = """
import json, sys
from pathlib import Path
from latent2pixel.generate import load_pipeline
from latent2pixel.generate.budget import peak_bytes
from latent2pixel.generate.picture import Picture, PictureSettings
from latent2pixel.generate.run import generate_pictures
folder, out, size, steps, budget = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
pipe = load_pipeline(folder)
before = peak_bytes(pipe.transformer.device)
settings = PictureSettings(size_px=(size, size), num_steps=steps, guidance_scale=0.0)
picture = Picture(path=out, prompt="a red circle", seed=0)
(made,) = generate_pictures(pipe, [picture], settings, budget_bytes=budget)
print(json.dumps([made.tile_px, before, peak_bytes(pipe.transformer.device)]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Patch 128, as for 8K; a head of few channels, so that time goes into what is tested."""
    folder = tmp_path_factory.mktemp("large") / "model"
    tiny_pixel_pipeline("z_image", patch_size=128, head=(2, 2)).save_pretrained(folder)
    return folder


def made(folder, out, size_px, *, steps, budget_bytes):
    """Make a picture, and return tile, bytes taken by the loaded model, and bytes taken at most."""
    told = map(str, (folder, out, size_px, steps, budget_bytes))
    done = subprocess.run([sys.executable, "-c", PICTURE, *told], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def test_2048_px_stay_within_their_budget(folder, tmp_path):
    budget = 10**9
    tile_px, before, peak = made(folder, tmp_path / "a.png", 2048, steps=1, budget_bytes=budget)
    assert tile_px is not None
    assert before < peak < budget
    # Whole, the head alone keeps eight images of its finest level, and the pipeline some of three channels.
    assert peak - before < 8 * 2048**2 * PIXEL_BYTES


@pytest.mark.e2e
def test_8192_px_peak_below_3_gb(folder, tmp_path):
    tile_px, _, peak = made(folder, tmp_path / "a.png", 8192, steps=1, budget_bytes=3 * 10**9)
    assert tile_px is not None
    assert peak < 3 * 10**9
    assert read_record(tmp_path / "a.png")["width"] == 8192
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (8192, 8192)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a.png"]
