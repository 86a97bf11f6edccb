"""``l2p generate`` from its arguments to the file."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import ConfigError, DataError, GeometryError, SourceError
from latent2pixel.generate import load_pipeline

PROMPT = ("--prompt", "a red circle", "--steps", 2, "--size", 32)


def run(*arguments):
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_picture_is_the_stock_pipelines(pixel_folder, tmp_path):
    import torch

    out = tmp_path / "deep" / "a.png"
    assert run(pixel_folder, *PROMPT, "--out", out, "--seed", 3).stdout == f"{out}\n"
    stock = load_pipeline(pixel_folder)(
        prompt=["a red circle"],
        height=32,
        width=32,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    made = np.asarray(Image.open(out)).astype(int)
    # diffusers and we round to bytes from ranges [0, 1] and [-1, 1]: a tie may fall either way
    assert np.abs(made - np.asarray(stock).astype(int)).max() <= 1
    assert made.std() > 1


def test_seed_decides_the_picture(pixel_folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(pixel_folder, *PROMPT, "--out", tmp_path / f"{name}.png", "--seed", seed)
    files = [(tmp_path / f"{name}.png").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--out", "a.xyz"), DataError),
        (("--size", 33), GeometryError),
        (("--size", 0), GeometryError),
        (("--steps", 0), ConfigError),
        (("--dtype", "float"), ConfigError),
    ],
)
def test_refuses_before_sampling(pixel_folder, tmp_path, monkeypatch, arguments, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        run(pixel_folder, *PROMPT, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_latent_source_is_refused(source_folder, tmp_path):
    with pytest.raises(SourceError, match="no pixel pipeline"):
        run(source_folder, *PROMPT, "--out", tmp_path / "a.png")
