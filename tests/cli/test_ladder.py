"""``l2p ladder`` from its arguments to what it prints."""

import json

import pytest
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import OutputFolderError, SourceError


def run(*arguments):
    result = CliRunner().invoke(app, ["ladder", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_prints_the_folder(pixel_folder, tmp_path):
    result = run(pixel_folder, tmp_path / "out")
    assert result.stdout == f"{tmp_path / 'out'}\n"
    assert "patch 32, noise shift 6" in result.stderr
    assert (tmp_path / "out" / "model_index.json").exists()


def test_same_command_again_writes_nothing(pixel_folder, tmp_path):
    first = json.loads(run(pixel_folder, tmp_path / "out", "--json").stdout)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert first == {"folder": str(tmp_path / "out"), "patch_size": 32, "noise_shift": 6.0}
    assert json.loads(run(pixel_folder, tmp_path / "out", "--json").stdout) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_model_or_place_that_cannot_be_used(source_folder, pixel_folder, tmp_path):
    with pytest.raises(SourceError, match="cannot be found"):
        run(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(SourceError, match="this is none"):
        run(source_folder, tmp_path / "out")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputFolderError):
        run(pixel_folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
