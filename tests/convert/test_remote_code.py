"""A folder with its own code loads in a fresh process that does not have this library."""

import subprocess
import sys

import pytest
import torch
from tests.tiny import save_tiny_pipeline, tiny_lift, tiny_pixel_pipeline

from latent2pixel.convert.remote_code import export_with_code
from latent2pixel.errors import OutputFolderError, SourceError

LOAD = """
import importlib.util, os, sys
sys.path[:] = [entry for entry in sys.path if not os.path.exists(os.path.join(entry, "latent2pixel"))]
assert importlib.util.find_spec("latent2pixel") is None
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
torch.save(pipe("red circle", height=64, width=64, num_inference_steps=2, output_type="pt",
                generator=torch.Generator().manual_seed(0)).images, sys.argv[2])
assert sys.modules["latent2pixel"].__spec__.origin is None  # not from a file: from the folder's own code
"""


@pytest.mark.parametrize(("name", "lifted"), [("z_image", True), ("flux", False)])
def test_loads_and_samples_without_the_library(name, lifted, tmp_path):
    pipe = tiny_pixel_pipeline(name, lift=tiny_lift(name) if lifted else None)
    pipe.save_pretrained(tmp_path / "pixel")
    folder = export_with_code(tmp_path / "pixel", tmp_path / "carried")
    command = [sys.executable, "-c", LOAD, str(folder), str(tmp_path / "images.pt")]
    environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = pipe("red circle", height=64, width=64, num_inference_steps=2, output_type="pt",
                    generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    torch.testing.assert_close(torch.load(tmp_path / "images.pt"), expected, atol=1e-5, rtol=0)


def test_what_is_no_pixel_pipeline_or_exists_is_refused(tmp_path):
    source = save_tiny_pipeline("flux", tmp_path / "flux")
    with pytest.raises(SourceError, match="no pixel pipeline"):
        export_with_code(source, tmp_path / "out")
    tiny_pixel_pipeline("flux").save_pretrained(tmp_path / "pixel")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OutputFolderError):
        export_with_code(tmp_path / "pixel", tmp_path / "out")
