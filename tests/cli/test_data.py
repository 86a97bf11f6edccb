"""``l2p data`` from its arguments to what it prints."""

import json

import pytest
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.errors import DataError, GeometryError, StateError
from latent2pixel.io.records import read_records, write_records

FAST = ("--size", 32, "--steps", 1, "--seeds-per-prompt", 1)


def run(*arguments):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def prompts(tmp_path):
    texts = ["two circles", "a red circle", "Two circles."]
    records = [{"id": str(i), "prompt": text, "major_class": "m", "sub_class": "s"} for i, text in enumerate(texts)]
    write_records(tmp_path / "prompts.jsonl", records)
    return tmp_path / "prompts.jsonl"


def test_filter(prompts, tmp_path):
    out = tmp_path / "kept.jsonl"
    result = run("filter", prompts, out)
    assert result.stdout == f"{out}\n"
    assert "rejected 2: duplicate of 0" in result.stderr
    assert [record["id"] for record in read_records(out)] == ["0", "1"]
    assert json.loads(run("filter", prompts, out, "--json").stdout) == {"out": str(out), "kept": 2, "rejected": 1}


def test_filter_without_prompts(tmp_path):
    with pytest.raises(DataError):
        run("filter", tmp_path / "missing.jsonl", tmp_path / "kept.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_synthesize_and_go_on(source_folder, prompts, tmp_path):
    out = tmp_path / "images"
    result = run("synthesize", source_folder, prompts, out, *FAST)
    assert result.stdout == f"{out}\n"
    assert ImageFolderDataset(out, 32).prompts == ["two circles", "a red circle", "Two circles."]
    again = json.loads(run("synthesize", source_folder, prompts, out, *FAST, "--json").stdout)
    assert (again["num_images"], again["num_new"]) == (3, 0)


def test_synthesize_refuses(source_folder, prompts, tmp_path):
    with pytest.raises(GeometryError):
        run("synthesize", source_folder, prompts, tmp_path / "images", "--size", 33, "--steps", 1)
    with pytest.raises(StateError):
        run("synthesize", source_folder, prompts, tmp_path / "images", *FAST, "--rank", 1)
