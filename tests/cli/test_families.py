"""`l2p inspect` and `l2p families` on the command line."""

import json

import pytest
from tests.tiny import save_tiny_pipeline, tiny_pixel_pipeline
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import ConfigError
from latent2pixel.families import TRANSFORMERS


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_inspect_prints_text_and_json(tmp_path):
    folder = save_tiny_pipeline("sd3", tmp_path / "sd3")
    text = run("inspect", folder).stdout
    assert "StableDiffusion3Pipeline" in text
    assert json.loads(run("inspect", folder, "--json").stdout)["family"] == "sd3"


def test_families_lists_them_all():
    entries = json.loads(run("families", "--json").stdout)
    assert {entry["family"] for entry in entries} == set(TRANSFORMERS)
    measured = {"pixels_per_token", "parameters", "trainable_share"}
    assert {"family", "transformer", "pipelines", "objective", "status"} | measured <= entries[0].keys()


def test_released_weights_come_in_and_go_out(tmp_path):
    tiny_pixel_pipeline("z_image").save_pretrained(tmp_path / "pixel")
    run("export", tmp_path / "pixel", tmp_path / "released.safetensors", "--released")
    base = save_tiny_pipeline("z_image", tmp_path / "base")
    printed = run("convert", tmp_path / "back", "--from-released", tmp_path / "released.safetensors", "--base", base)
    assert printed.stdout == f"{tmp_path / 'back'}\n"
    run("export", tmp_path / "back", tmp_path / "again.safetensors", "--released")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "released.safetensors").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "one"],
        ["convert", "one", "--base", "two"],
        ["convert", "one", "two", "--from-released", "three", "--base", "four"],
        ["export", "one", "two"],
        ["export", "one", "two", "--released", "--remote-code"],
    ],
)
def test_half_told_is_refused(arguments):
    with pytest.raises(ConfigError):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
