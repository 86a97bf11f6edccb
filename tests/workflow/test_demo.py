"""The demo end to end on the shipped source, with numbers so small that only its wiring is tested."""

import json
import math

import pytest

from latent2pixel.config import load_yaml
from latent2pixel.errors import StateError
from latent2pixel.io.pipeline_folder import read_json
from latent2pixel.model.head import HEAD_CHANNELS
from latent2pixel.model.lift import NUM_LEVELS
from latent2pixel.workflow.demo import run_demo
from latent2pixel.workflow.demo_config import DemoConfig
from latent2pixel.world.source_model import SHIPPED_SOURCE

TINY = {"recipe": "paper", "num_prompts": 12, "seeds_per_prompt": 1, "num_captions": 12, "steps": 4, "num_steps": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, config=DemoConfig(**TINY), cost_sizes_px=(64,))


@pytest.mark.e2e
def test_demo_leaves_a_report_and_a_model(finished):
    out, result = finished
    assert result.report.read_text().startswith("<!DOCTYPE html>")
    assert (out / "first-look.png").exists()
    assert (out / "train" / "model" / "model_index.json").exists()
    assert result.steps == 4
    record = json.loads(json.dumps(result.as_record()))
    assert {"source_score", "pixel_score", "retention", "minutes", "steps", "report"} <= record.keys()
    assert record["source_score"]["standard_error"] >= 0
    source, pixel = (record[f"{side}_score"]["score"] for side in ("source", "pixel"))
    # In two steps of sampling the source may get nothing right, and then there is no retention.
    assert record["retention"] == pytest.approx(pixel / source) if source else math.isnan(record["retention"])


@pytest.mark.e2e
def test_demo_again_makes_nothing_new(finished):
    out, first = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    second = run_demo(out, config=DemoConfig(**TINY), cost_sizes_px=(64,))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    assert second.pixel_score == first.pixel_score


@pytest.mark.e2e
def test_demo_with_other_settings_is_refused(finished):
    with pytest.raises(StateError, match="steps"):
        run_demo(finished[0], config=DemoConfig(**{**TINY, "steps": 5}))


@pytest.mark.e2e
def test_demo_lifts_by_default_and_trains_towards_the_source(tmp_path):
    # 200 images of 16 patches: the fit needs four patches for each of a patch's 768 values.
    settings = {
        "num_prompts": 200,
        "seeds_per_prompt": 1,
        "num_captions": 6,
        "num_steps": 2,
        "warm_up_steps": 2,
        "steps": 2,
    }
    result = run_demo(tmp_path / "demo", config=DemoConfig(**settings), cost_sizes_px=(64,))
    assert result.steps == 2
    record = read_json(tmp_path / "demo" / "converted" / "conversion.json")
    assert record["settings"]["warm_up_steps"] == 2
    assert len(record["lift"]["gain"]) == len(record["lift"]["misfit"]) == NUM_LEVELS
    assert load_yaml(tmp_path / "demo" / "train" / "run.yaml")["train"]["objective"] == "source"


@pytest.mark.e2e
def test_demo_runs_on_another_source(tmp_path):
    """A folder instead of the shipped name: the recipe at full width, in the source's own bfloat16."""
    settings = TINY | {"source": str(SHIPPED_SOURCE), "image_size_px": 64, "steps": 1}
    result = run_demo(tmp_path / "demo", config=DemoConfig(**settings))
    config = read_json(tmp_path / "demo" / "train" / "model" / "transformer" / "config.json")
    assert config["head_channels"] == list(HEAD_CHANNELS["1k"])
    assert result.report.exists()
    assert (tmp_path / "demo" / "pairs.png").exists()
