"""``l2p data`` from its arguments to what it prints."""

import json

import pytest
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.errors import ConfigError, DataError, GeometryError, StateError
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
    record = read_records(out / "shard-00000" / "metadata.jsonl")[0]
    assert (record["source"], record["origin"]) == ("source", "source")
    assert record["revision"].startswith("sha256:")


def test_synthesize_aspects_and_prompts_of_a_folder(source_folder, prompts, tmp_path):
    run("synthesize", source_folder, prompts.parent, tmp_path / "out", *FAST, "--aspects", "1:1=2,3:2=1")
    records = read_records(tmp_path / "out" / "shard-00000" / "metadata.jsonl")
    assert sorted((record["width"], record["height"]) for record in records) == [(32, 32), (32, 32), (48, 32)]


def test_synthesize_chooses_by_a_scorer(source_folder, prompts, tmp_path):
    chosen = ("--scorer", "tests.data.test_synthesize:darkness", "--best-of", 2)
    told = json.loads(run("synthesize", source_folder, prompts, tmp_path / "out", *FAST, *chosen, "--json").stdout)
    assert (told["num_images"], told["num_new"], told["num_rejected"]) == (3, 6, 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--best-of", 2), "nothing to choose by"),
        (("--scorer", "tests.data.test_synthesize:darkness"), "nothing to choose from"),
        (("--scorer", "no.such.module:f", "--best-of", 2), "cannot be found"),
        (("--scorer", "tests.data.test_synthesize:TEXTS", "--best-of", 2), "no function"),
        (("--batch-size", "many"), "no number"),
        (("--aspects", "wide"), "aspects"),
        (("--workers", 2), "do not go together"),
        (("--executor", "local", "--rank", 0), "do not go together"),
    ],
)
def test_synthesize_options_that_do_not_fit(source_folder, prompts, tmp_path, options, told):
    with pytest.raises(ConfigError, match=told):
        run("synthesize", source_folder, prompts, tmp_path / "images", *FAST, *options)


def test_synthesize_refuses(source_folder, prompts, tmp_path):
    with pytest.raises(GeometryError):
        run("synthesize", source_folder, prompts, tmp_path / "images", "--size", 33, "--steps", 1)
    with pytest.raises(StateError):
        run("synthesize", source_folder, prompts, tmp_path / "images", *FAST, "--rank", 1)
