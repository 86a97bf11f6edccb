"""The commands of the miniature world, from their arguments to what they print."""

import json

import pytest
from typer.testing import CliRunner

from latent2pixel.cli.world import app
from latent2pixel.errors import ConfigError, DataError, GeometryError


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_captions_are_prompt_records():
    records = [json.loads(line) for line in run("captions", "--num", 12, "--seed", 1).splitlines()]
    assert len(records) == 12
    assert {record["sub_class"] for record in records} >= {"counting", "position"}
    assert len({record["id"] for record in records}) == 12
    assert run("captions", "--num", 12, "--seed", 1) != run("captions", "--num", 12, "--split", "train", "--seed", 1)


def test_rendered_truth_scores_full_marks(tmp_path):
    folder = run("render", tmp_path / "truth", "--num", 12, "--size", 96, "--level", "full").strip()
    record = json.loads(run("score", folder, "--level", "full", "--json"))
    assert (record["score"], record["num_images"]) == (1, 12)
    assert run("score", folder, "--level", "full").startswith("1.000 +- ")


def test_train_source_prints_its_settings_without_training(tmp_path):
    settings = json.loads(run("train-source", tmp_path, "--dry-run", "--set", "steps=7"))
    assert settings["steps"] == 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (["captions", "--level", "hard"], ConfigError, "easy, medium, full"),
        (["captions", "--split", "test"], ConfigError, "heldout"),
        (["render", "OUT", "--size", "32"], GeometryError, "32 px"),
        (["score", "OUT"], DataError, "0 pictures"),
        (["train-source", "OUT", "--set", "stepz=3"], ConfigError, "steps"),
        (["train-source", "OUT", "--set", "family=flux"], ConfigError, "cogview4"),
    ],
)
def test_mistakes_are_told(tmp_path, arguments, error, text):
    arguments = [str(tmp_path / "new") if argument == "OUT" else argument for argument in arguments]
    with pytest.raises(error, match=text):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
