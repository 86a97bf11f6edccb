"""Suites: their prompts, their judges, and that nothing is drawn before all that is needed is there."""

import json

import pytest
import torch
from tests.evaluate.tiny_clip import save_tiny_clip, save_with_preprocessing
from tests.tiny.judges import save_clip, save_mask2former
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from latent2pixel.data.prompts import Prompt, save_prompts
from latent2pixel.errors import CheckpointError, ConfigError, DataError, SourceError
from latent2pixel.evaluate.geneval.names import TASKS
from latent2pixel.evaluate.geneval.prompts import load_geneval_prompts
from latent2pixel.evaluate.geneval.six_tasks import FILE, load_six_tasks
from latent2pixel.io.records import read_records, write_records
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.side_by_side import evaluate
from latent2pixel.workflow.suites import first_of_each, open_suite, with_suite_defaults

SIZES = {"seeds_per_prompt": 1, "image_size_px": 32, "num_steps": 1}


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """A detector that sees benches everywhere, and a CLIP that names colours; random otherwise."""
    folder = tmp_path_factory.mktemp("judges")
    detector, colours = save_mask2former(folder / "m2f", sees="bench"), save_clip(folder / "clip")
    return {"detector": str(detector), "colours": str(colours)}


@pytest.fixture
def own_prompts(tmp_path):
    prompts = [
        Prompt(id=str(i), prompt=text, major_class="m", sub_class="s") for i, text in enumerate(("a cat", "fog"))
    ]
    save_prompts(tmp_path / "prompts.jsonl", prompts)
    return str(tmp_path / "prompts.jsonl")


def test_our_six_tasks_are_drawn_and_judged(tiny_models, judges, tmp_path):
    config = EvaluationConfig(suite="l2p-six-tasks", num_prompts=6, **SIZES, **judges)
    result = evaluate(*tiny_models, tmp_path / "out", config=config)
    assert set(result["tasks"]) == {f"geneval-format/{task}" for task in TASKS}  # six prompts are not the whole set
    record = result["judges"]["pixel"]
    assert record["key"].startswith("geneval-format/m2f-")
    assert (record["num_images"], record["num_missing"]) == (6, 0)
    assert result["score"]["pixel"]["value"] == pytest.approx(record["score"])
    drawn = {line["prompt"] for line in read_records(tmp_path / "out" / "pairs.jsonl")}
    assert drawn == {prompt.prompt for prompt in first_of_each(load_six_tasks(), TASKS_OF_SIX, 6)}
    lines = read_records(tmp_path / "out" / "judged" / "pixel" / "results.jsonl")
    assert all("found" in line for line in lines)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == json.loads(json.dumps(result))


TASKS_OF_SIX = [prompt.task for prompt in load_six_tasks()]


def test_a_file_in_genevals_format_is_a_suite_of_one_model(tiny_models, judges, tmp_path):
    write_records(tmp_path / "mine.jsonl", [prompt.as_record() for prompt in load_geneval_prompts(FILE)[80:82]])
    config = EvaluationConfig(suite="geneval", prompts=str(tmp_path / "mine.jsonl"), **SIZES, **judges)
    result = evaluate(tiny_models[1], None, tmp_path / "out", config=config)
    assert list(result["tasks"]) == ["geneval-format/two_object"]
    assert result["tasks"]["geneval-format/two_object"]["model"]["num_images"] == 2
    assert result["judges"]["model"]["score"] is None  # of six tasks there is none with one


def test_own_prompts_are_compared_without_a_judge(tiny_models, own_prompts, tmp_path):
    torch.manual_seed(0)
    dino = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28))
    networks = {
        "network": "transformer",
        "network_path": str(save_with_preprocessing(dino, tmp_path / "tiny-dino")),
        "clip": str(save_tiny_clip(tmp_path / "tiny-clip")),
    }
    config = EvaluationConfig(suite="prompts", prompts=own_prompts, **{**SIZES, "seeds_per_prompt": 2}, **networks)
    result = evaluate(*tiny_models, tmp_path / "out", config=config)
    assert (result["score"], result["tasks"], result["judges"]) == (None, {}, {})
    assert result["pairs"] == 4
    compared = result["comparison"]
    assert {"fid/transformers/tiny-dino", "clip/tiny-clip", "diversity/transformers/tiny-dino"} <= compared[
        "results"
    ].keys()
    assert compared["network"]["name"] == "transformers/tiny-dino"
    assert compared["clip"]["name"] == "clip/tiny-clip"
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "Farthest apart" in page
    assert "network transformers/tiny-dino" in page
    with pytest.raises(ConfigError, match="nothing to measure"):
        evaluate(tiny_models[0], None, tmp_path / "one", config=config)
    assert not (tmp_path / "one").exists()


def test_two_folders_of_any_pictures_are_compared_without_prompts(tiny_models, own_prompts, tmp_path):
    drawn = EvaluationConfig(suite="prompts", prompts=own_prompts, **SIZES)
    first = evaluate(*tiny_models, tmp_path / "first", config=drawn)
    folders = (tmp_path / "first" / "source", tmp_path / "first" / "pixel")
    again = evaluate(*folders, tmp_path / "again", config=EvaluationConfig(suite="prompts", patch_size=16))
    assert again["comparison"] == first["comparison"]
    assert again["manifests"] == first["manifests"]


class SquareDistance(nn.Module):
    def forward(self, one_BCHW, other_BCHW):
        return (one_BCHW - other_BCHW).square().mean((1, 2, 3))


def test_an_exported_distance_orders_the_pairs(tiny_models, own_prompts, tmp_path):
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    examples = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    torch.export.save(
        torch.export.export(SquareDistance(), examples, dynamic_shapes=(sizes, sizes)), tmp_path / "d.pt2"
    )
    config = EvaluationConfig(
        suite="prompts", prompts=own_prompts, distance=str(tmp_path / "d.pt2"), **{**SIZES, "seeds_per_prompt": 2}
    )
    result = evaluate(*tiny_models, tmp_path / "out", config=config)
    lines = read_records(tmp_path / "out" / "pairs.jsonl")
    mean = sum(line["distance"] for line in lines) / len(lines)
    assert result["comparison"]["results"]["pair-distance/images"]["value"] == pytest.approx(mean)
    assert "diversity/images" in result["comparison"]["results"]
    assert len({line["distance"] for line in lines}) == 4


@pytest.mark.parametrize(
    ("settings", "error", "command"),
    [
        ({"suite": "geneval"}, DataError, "curl -fL --create-dirs -o evaluation_metadata.jsonl https://raw"),
        ({"suite": "l2p-six-tasks"}, SourceError, "hf download facebook/mask2former-swin-small-coco-instance"),
        ({"suite": "l2p-six-tasks", "detector": "HERE"}, SourceError, "hf download openai/clip-vit-large-patch14"),
        ({"network": "inception", "network_path": "i.pt"}, ConfigError, "curl -L --create-dirs -o i.pt https://nvlabs"),
        (
            {"network": "transformer", "network_path": "d"},
            ConfigError,
            "hf download facebook/dinov2-base --local-dir d",
        ),
        ({"clip": "c"}, ConfigError, "hf download zer0int/LongCLIP-L-Diffusers --local-dir c"),
        ({"distance": "lpips.pt2"}, ConfigError, "Export the network"),
        ({"network": "inception"}, ConfigError, "network_path"),
        ({"network": "dino"}, ConfigError, "network"),
        ({"network_path": "i.pt"}, ConfigError, "network_path"),
        ({"suite": "prompts"}, ConfigError, "l2p data prompts"),
        ({"level": "hardest"}, ConfigError, "level"),
    ],
)
def test_what_is_missing_is_told_with_its_command_before_anything_is_drawn(
    tiny_models, judges, tmp_path, monkeypatch, settings, error, command
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    settings = {key: judges["detector"] if value == "HERE" else value for key, value in settings.items()}
    with pytest.raises(error) as caught:
        evaluate(*tiny_models, tmp_path / "out", config=EvaluationConfig(**settings))
    assert command in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_damaged_weights_of_a_judge_cost_no_picture(tiny_models, judges, tmp_path):
    (tmp_path / "m2f").mkdir()
    (tmp_path / "m2f" / "config.json").write_text("{}")
    config = EvaluationConfig(suite="l2p-six-tasks", **{**judges, "detector": str(tmp_path / "m2f")})
    with pytest.raises(CheckpointError):
        evaluate(*tiny_models, tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_a_suite_fills_the_gaps_and_nothing_else():
    filled = with_suite_defaults(EvaluationConfig(suite="geneval", num_steps=7))
    assert (filled.num_prompts, filled.seeds_per_prompt, filled.image_size_px, filled.num_steps) == (None, 4, 1024, 7)
    world = with_suite_defaults(EvaluationConfig())
    assert (world.num_prompts, world.seeds_per_prompt, world.image_size_px, world.num_steps) == (120, 2, 64, 16)


def test_our_set_is_whole_unless_asked_otherwise(judges):
    suite = open_suite(with_suite_defaults(EvaluationConfig(suite="l2p-six-tasks", **judges)), device="cpu")
    assert [prompt.prompt for prompt in suite.prompts] == [prompt.prompt for prompt in load_six_tasks()]
    assert len({prompt.id for prompt in suite.prompts}) == 580


def test_first_of_each_takes_groups_in_turn():
    groups = ["a", "a", "a", "b", "b", "c"]
    assert first_of_each(range(6), groups, 3) == [0, 3, 5]
    assert first_of_each(range(6), groups, 5) == [0, 1, 3, 4, 5]
    assert first_of_each(range(6), groups, 9) == first_of_each(range(6), groups, None) == list(range(6))
