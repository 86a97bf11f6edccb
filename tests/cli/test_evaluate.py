"""``l2p evaluate`` from its arguments to the page."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.workflow.true_pictures import write_true_pictures
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import ConfigError
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.side_by_side import evaluate

TINY = {"num_prompts": 12, "seeds_per_prompt": 1, "image_size_px": 64, "num_steps": 1}
TIMEOUT_S = 120


def run(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def folders(tmp_path):
    pixel = write_true_pictures(tmp_path / "pixel", wrong=("colors",))
    return write_true_pictures(tmp_path / "source"), pixel


def test_stdout_is_the_page_and_stderr_the_scores(folders, tmp_path):
    done = run(*folders, "--out", tmp_path / "out")
    assert done.stdout == f"{tmp_path / 'out' / 'evaluation.html'}\n"
    lines = {line.split()[0]: line for line in done.stderr.splitlines()}
    assert "source 1.000 (1.000, 1.000)" in lines["all"]
    assert "pixel 0.833" in lines["all"]
    assert "retention 0.000" in lines["world/colors"]
    assert lines["0"] == "0 pictures could not be used"


def test_json_is_the_record(folders, tmp_path):
    done = run(*folders, "--out", tmp_path / "out", "--json", "--set", "seed=3")
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["settings"]["seed"] == 3


def test_one_folder_alone(folders, tmp_path):
    done = run(folders[1], "--out", tmp_path / "out")
    assert "model 0.833" in done.stderr
    assert "retention" not in done.stderr


def test_runs_are_told_with_their_deviation(source_folder, tmp_path):
    settings = [part for key, value in {**TINY, "runs": 2}.items() for part in ("--set", f"{key}={value}")]
    done = run(source_folder, "--out", tmp_path / "out", *settings)
    assert " +- " in next(line for line in done.stderr.splitlines() if line.startswith("all"))


def test_dry_run_shows_what_the_suite_takes(tmp_path):
    done = run("nowhere", "--suite", "geneval", "--dry-run", "--set", "num_steps=9", "--out", tmp_path / "out")
    settings = json.loads(done.stdout)
    assert (settings["suite"], settings["num_steps"], settings["seeds_per_prompt"]) == ("geneval", 9, 4)
    assert not (tmp_path / "out").exists()


def test_a_misspelt_setting_names_the_right_one(folders):
    arguments = ["evaluate", *map(str, folders), "--set", "num_crop=3"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "num_crops" in result.exception.fix


def test_a_killed_evaluation_goes_on(source_folder, pixel_folder, tmp_path):
    """Killed between the two models: the source's pictures stay as they are, and the result is that of a whole call."""
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    call = ["evaluate", str(source_folder), str(pixel_folder), "--out", str(tmp_path / "out"), *settings]
    code = "import sys; from latent2pixel.cli.app import main; main()"
    started = subprocess.Popen(
        [sys.executable, "-c", code, *call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "out" / "source" / "shard-00000").exists() and time.monotonic() < deadline:
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "out" / "evaluation.json").exists()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "source").rglob("*.png")}
    assert len(made) == 12
    config = EvaluationConfig(**TINY)
    again = evaluate(source_folder, pixel_folder, tmp_path / "out", config=config)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    whole = evaluate(source_folder, pixel_folder, tmp_path / "whole", config=config)
    assert again == whole
