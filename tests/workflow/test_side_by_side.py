"""Two models side by side: the same prompts and seeds, honest counts, a page that is complete."""

import json

import pytest
import torch
from PIL import Image
from tests.workflow.true_pictures import LEVEL, write_true_pictures

from latent2pixel.errors import ConfigError, DataError, StateError
from latent2pixel.evaluate.pairs import list_images
from latent2pixel.evaluate.scores import join_sides, scores_of
from latent2pixel.io.pipeline_folder import read_json
from latent2pixel.io.records import read_records, write_records
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.side_by_side import evaluate
from latent2pixel.workflow.sides import image_folder
from latent2pixel.workflow.world_judge import judge_world
from latent2pixel.world.captions import TASKS

TINY = EvaluationConfig(num_prompts=6, seeds_per_prompt=2, image_size_px=64, num_steps=1)


@pytest.fixture
def true_folders(tmp_path):
    """The source is right in all 12 pictures, the pixel model wrong in those of two tasks of six."""
    wrong = ("counting", "colors")
    return (
        write_true_pictures(tmp_path / "source"),
        write_true_pictures(tmp_path / "pixel", wrong=wrong, backwards=True),
    )


def images_of(folder):
    return {
        (line["prompt"], line["seed"]): folder / line["file_name"] for line in read_records(folder / "metadata.jsonl")
    }


def judged_in(*folders):
    return join_sides(
        {
            side: judge_world(list_images(folder, side), folder, level=LEVEL).scores
            for side, folder in zip(("source", "pixel"), folders, strict=True)
        }
    )


def damage(path):
    """The ends stand: only decoding finds it."""
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(20) + whole[middle + 20 :])


def test_scores_are_shares_of_right_pictures(true_folders):
    scores = scores_of(judged_in(*true_folders), seed=0)
    assert scores["score"]["source"]["value"] == 1
    assert scores["score"]["pixel"]["value"] == pytest.approx(4 / 6)
    assert scores["score"]["retention"]["value"] == pytest.approx(4 / 6)
    assert scores["tasks"]["world/counting"]["pixel"]["value"] == 0
    assert scores["tasks"]["world/position"]["retention"]["value"] == 1
    assert {row["pixel"]["num_prompts"] for row in scores["tasks"].values()} == {2}


def test_the_global_generator_is_left_alone(true_folders):
    judged = judged_in(*true_folders)
    before = torch.random.get_rng_state()
    assert scores_of(judged, seed=3) == scores_of(judged[::-1], seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_folders_are_judged_and_compared_without_a_model(true_folders, tmp_path):
    source, pixel = true_folders
    result = evaluate(source, pixel, tmp_path / "out", config=EvaluationConfig(patch_size=16))
    assert result["score"]["retention"]["value"] == pytest.approx(4 / 6)
    assert result["pictures"] == {"source": 12, "pixel": 12}
    assert result["judges"] == {"source": {"key": "world/easy"}, "pixel": {"key": "world/easy"}}
    assert {"spectrum", "patch_grid", "fid/filters-v1", "kid/filters-v1"} <= result["comparison"]["results"].keys()
    assert "num_crops" in result["comparison"]["left_out"]["fid-patch/filters-v1"]
    assert not list((tmp_path / "out").rglob("*.png"))
    lines = read_records(tmp_path / "out" / "pairs.jsonl")
    assert [(line["prompt"], line["seed"]) for line in lines] == sorted(images_of(source))
    for line in lines:
        assert (source / line["files"]["source"], line["scores"]["source"]) == (images_of(source)[line["prompt"], 5], 1)
        assert (line["scores"]["pixel"] == 0) == (line["distance"] > 0)  # the wrong ones are black, the others equal


def test_crops_are_measured_when_asked_for(true_folders, tmp_path):
    result = evaluate(*true_folders, tmp_path / "out", config=EvaluationConfig(num_crops=3, crop_px=24))
    patch = result["comparison"]["results"]["fid-patch/filters-v1"]
    assert (patch["num_source"], patch["crop_px"]) == (36, 24)
    assert "mmd-patch/filters-v1" in result["comparison"]["results"]


def test_a_broken_picture_is_counted_and_neither_scored_nor_dropped(true_folders, tmp_path):
    source, pixel = true_folders
    damage(pixel / "3.png")
    (source / "5.png").unlink()
    result = evaluate(source, pixel, tmp_path / "out", config=EvaluationConfig())
    told = [(problem["side"], problem["file"], problem["kind"]) for problem in result["problems"]]
    assert sorted(told) == [
        ("pixel", "3.png", "broken"),
        ("pixel", "5.png", "no partner"),
        ("source", "3.png", "no partner"),
        ("source", "5.png", "missing"),
    ]
    assert result["pairs"] == 10
    # Without a judge the comparison finds the same.
    compared = evaluate(source, pixel, tmp_path / "compared", config=EvaluationConfig(suite="prompts"))
    for key in ("problems", "pairs", "comparison", "pictures"):
        assert compared[key] == result[key], key
    assert sum(row["pixel"]["num_images"] for row in result["tasks"].values()) == 10


def test_a_pair_of_two_sizes_is_told_and_not_scored(true_folders, tmp_path):
    source, pixel = true_folders
    Image.open(pixel / "4.png").resize((128, 128)).save(pixel / "4.png")
    result = evaluate(source, pixel, tmp_path / "out", config=EvaluationConfig())
    told = [(problem["side"], problem["file"], problem["kind"]) for problem in result["problems"]]
    assert told == [("pixel", "4.png", "other size"), ("source", "4.png", "other size")]
    assert result["pairs"] == sum(row["pixel"]["num_images"] for row in result["tasks"].values()) == 11


def test_one_folder_alone_is_judged(true_folders, tmp_path):
    _, pixel = true_folders
    result = evaluate(pixel, None, tmp_path / "out", config=EvaluationConfig())
    assert result["score"]["model"]["value"] == pytest.approx(4 / 6)
    assert "retention" not in result["score"]
    assert result["comparison"] is None
    assert result["pictures"] == {"model": 12}
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 12
    assert page.index("Not right: 4") < page.index("Right: 8")


def test_pictures_of_other_prompts_are_refused(true_folders, tmp_path):
    source, _ = true_folders
    write_records(source / "metadata.jsonl", [{"file_name": "0.png", "prompt": "a fox in the snow", "seed": 0}])
    with pytest.raises(DataError, match="no caption of the miniature"):
        evaluate(source, None, tmp_path / "out", config=EvaluationConfig())


def test_folders_without_a_common_seed_are_refused(true_folders, tmp_path):
    source, pixel = true_folders
    write_records(pixel / "metadata.jsonl", [line | {"seed": 9} for line in read_records(pixel / "metadata.jsonl")])
    with pytest.raises(DataError, match="No pair of pictures"):
        evaluate(source, pixel, tmp_path / "out", config=EvaluationConfig())


def test_both_models_draw_the_same_and_a_second_call_draws_nothing(tiny_models, tmp_path):
    out = tmp_path / "out"
    first = evaluate(*tiny_models, out, config=TINY)
    assert first["pairs"] == 12
    assert first["pictures"] == {"source": 12, "pixel": 12}
    assert first["problems"] == []
    assert {"spectrum", "patch_grid", "diversity/filters-v1"} <= first["comparison"]["results"].keys()
    assert first["comparison"]["settings"]["patch_size"] == 16
    assert first["manifests"]["pixel"]["num_steps"] == 1
    assert set(first["tasks"]) == {f"world/{task}" for task in TASKS}
    assert json.loads((out / "evaluation.json").read_text()) == first
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 24
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert evaluate(*tiny_models, out, config=TINY) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == made
    with pytest.raises(StateError, match="other settings"):
        evaluate(*tiny_models, out, config=EvaluationConfig(**{**vars(TINY), "num_steps": 2}))


def test_a_pipeline_is_compared_with_pictures_that_another_call_made(tiny_models, tmp_path):
    """What the source drew yesterday serves today: the same numbers, and it draws nothing."""
    first = evaluate(*tiny_models, tmp_path / "both", config=TINY)
    again = evaluate(tmp_path / "both" / "source", tiny_models[1], tmp_path / "half", config=TINY)
    assert not (tmp_path / "half" / "source").exists()
    for key in ("score", "tasks", "comparison", "manifests", "pictures", "problems"):
        assert again[key] == first[key], key


def test_runs_differ_in_their_seeds_and_are_summed_up(tiny_models, tmp_path):
    out = tmp_path / "out"
    result = evaluate(*tiny_models, out, config=EvaluationConfig(**{**vars(TINY), "seed": 3, "runs": 2}))
    assert [run["seed"] for run in result["runs"]] == [3, 4]
    assert [run["settings"]["seed"] for run in result["runs"]] == [3, 4]
    values = [run["score"]["pixel"]["value"] for run in result["runs"]]
    assert result["over_runs"]["score"]["pixel"]["runs"] == values
    assert result["runs"][1] == {"seed": 4, "folder": "seed-4", **read_json(out / "seed-4" / "evaluation.json")}
    captions = [{line["prompt"] for line in read_records(out / f"seed-{seed}" / "pairs.jsonl")} for seed in (3, 4)]
    assert captions[0] != captions[1]
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert 'href="seed-4/evaluation.html"' in page


def test_several_runs_of_a_folder_are_refused(true_folders, tmp_path):
    with pytest.raises(ConfigError, match="one run"):
        evaluate(*true_folders, tmp_path / "out", config=EvaluationConfig(runs=3))


def test_unknown_suite_is_refused(true_folders, tmp_path):
    with pytest.raises(ConfigError, match=r"world, geneval, l2p-six-tasks"):
        evaluate(*true_folders, tmp_path, config=EvaluationConfig(suite="gen-eval"))


@pytest.mark.parametrize("name", ["num_prompts", "seeds_per_prompt", "image_size_px", "num_steps", "runs"])
def test_settings_are_checked(name):
    with pytest.raises(ConfigError, match=f"{name} = 0"):
        EvaluationConfig(**{name: 0})


def test_a_folder_of_images_is_told_from_a_pipeline(true_folders, tiny_models, tmp_path):
    source, _ = true_folders
    assert image_folder(source) == source
    shards = tmp_path / "data" / "images" / "shard-00000"
    shards.parent.mkdir(parents=True)
    source.rename(shards)
    assert image_folder(tmp_path / "data" / "images") == image_folder(tmp_path / "data") == shards.parent
    assert image_folder(tiny_models[0]) is None
    assert image_folder("owner/name") is None
