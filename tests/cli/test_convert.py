"""``l2p convert`` from its arguments to what it prints."""

import json

import pytest
import torch
from tests.tiny import HEAD
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.cli.convert import parse_head
from latent2pixel.errors import ConfigError, GeometryError, OutputFolderError, SourceError
from latent2pixel.io.pipeline_folder import parse_dtype

HEAD_TEXT = ",".join(map(str, HEAD))


def run(*arguments):
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_prints_plan_share_and_folder(source_folder, tmp_path):
    result = run(source_folder, tmp_path / "out", "--head", HEAD_TEXT, "--num-blocks", 1)
    assert result.stdout == f"{tmp_path / 'out'}\n"
    assert "1 + 1 blocks" in result.stderr
    for word in ("kept", "new", "dropped", "trainable under recipe 'paper'"):
        assert word in result.stderr
    assert (tmp_path / "out" / "model_index.json").exists()


def test_same_command_again_writes_nothing(source_folder, tmp_path):
    arguments = (source_folder, tmp_path / "out", "--head", HEAD_TEXT, "--num-blocks", 1, "--json")
    first = json.loads(run(*arguments).stdout)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert json.loads(run(*arguments).stdout) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert 0 < first["trainable_share"] < 1
    assert first["folder"] == str(tmp_path / "out")


def test_dry_run_writes_nothing(source_folder, tmp_path):
    counts = json.loads(run(source_folder, tmp_path / "out", "--head", HEAD_TEXT, "--dry-run", "--json").stdout)
    assert {key: counts[key]["tensors"] > 0 for key in counts} == {"kept": True, "new": True, "dropped": True}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--recipe", "papr"], ConfigError),
        (["--recipe", "lift"], ConfigError),
        (["--images", "pictures"], ConfigError),
        (["--prompts", "prompts.jsonl"], ConfigError),
        (["--warm-up-steps", "5"], ConfigError),
        (["--recipe", "lift", "--warm-up-steps", "-1"], ConfigError),
        (["--input-map", "ridge"], ConfigError),
        (["--noise-scale", "0"], ConfigError),
        (["--noise-shift", "0"], ConfigError),
        (["--recipe", "lift", "--dry-run", "--noise-shift", "4"], ConfigError),
        (["--recipe", "lift", "--dry-run", "--noise-scale", "2"], ConfigError),
        (["--recipe", "lift", "--dry-run", "--input-map", "rigde"], ConfigError),
        (["--num-blocks", "99"], ConfigError),
        (["--num-blocks", "-1"], ConfigError),
        (["--patch-size", "15"], GeometryError),
        (["--dtype", "float"], ConfigError),
        (["--head", "4,x"], ConfigError),
        (["--head", "2k"], ConfigError),
    ],
)
def test_setting_that_does_not_exist(source_folder, tmp_path, arguments, error):
    with pytest.raises(error):
        run(source_folder, tmp_path / "out", "--head", HEAD_TEXT, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_source_or_place_that_cannot_be_used(source_folder, pixel_folder, tmp_path):
    with pytest.raises(SourceError):
        run(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(SourceError):
        run(pixel_folder, tmp_path / "out", "--head", HEAD_TEXT)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputFolderError):
        run(source_folder, tmp_path, "--head", HEAD_TEXT, "--num-blocks", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_parse_head():
    assert [parse_head(text) for text in ("1k", "16,32", "16, 32", "8")] == ["1k", (16, 32), (16, 32), (8,)]


def test_parse_dtype():
    assert [parse_dtype(name) for name in (None, "bfloat16", "float32")] == [None, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("option", ["--merge", "--from-released"])
def test_settings_that_would_be_ignored_are_refused(option, tmp_path):
    arguments = ["convert", str(tmp_path / "out"), option, str(tmp_path / "file"), "--recipe", "lift", "--dry-run"]
    with pytest.raises(ConfigError, match="--recipe, --dry-run"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "out").exists()
