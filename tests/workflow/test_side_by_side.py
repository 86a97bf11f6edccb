"""Two models side by side: the same prompts and seeds, honest counts, a page that is complete."""

import json
import random

import pytest
import torch
from PIL import Image
from tests.tiny import EXAMPLES, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.errors import ConfigError, StateError
from latent2pixel.evaluate.pairs import pair_folders
from latent2pixel.io.records import write_records
from latent2pixel.workflow.side_by_side import EvaluationConfig, evaluate, judge_pairs, scores_of
from latent2pixel.world.captions import TASKS, heldout_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.render import render
from latent2pixel.world.scenes import compose_scene

LEVEL = require_level("easy")
TINY = EvaluationConfig(num_prompts=6, seeds_per_prompt=2, image_size_px=64, num_steps=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, pipe in (("source", tiny_pipeline(EXAMPLES[0])), ("pixel", tiny_pixel_pipeline(EXAMPLES[0]))):
        pipe.save_pretrained(folder / name)
    return folder / "source", folder / "pixel"


def write_true_pictures(folder, *, wrong=(), backwards=False):
    """Render 12 held-out captions, two a task; those of the tasks ``wrong`` stay empty."""
    folder.mkdir()
    generator, records = random.Random(0), []
    for index, caption in enumerate(heldout_captions(LEVEL, 2 * len(TASKS), seed=0)):
        picture = render(compose_scene(LEVEL, caption, generator=generator), 64)
        Image.fromarray(picture * (caption.task not in wrong)).save(folder / f"{index}.png")
        records.append({"file_name": f"{index}.png", "prompt": caption.text, "seed": 5})
    write_records(folder / "metadata.jsonl", records[::-1] if backwards else records)
    return folder


def test_scores_are_shares_of_right_pictures(tmp_path):
    source = write_true_pictures(tmp_path / "source")
    pixel = write_true_pictures(tmp_path / "pixel", wrong=("counting", "colors"), backwards=True)
    judged, problems = judge_pairs(pair_folders(source, pixel)[0], LEVEL)
    assert not problems
    scores = scores_of(judged, seed=0)
    assert scores["score"]["source"]["value"] == 1
    assert scores["score"]["pixel"]["value"] == pytest.approx(4 / 6)
    assert scores["score"]["retention"]["value"] == pytest.approx(4 / 6)
    assert scores["tasks"]["world/counting"]["pixel"]["value"] == 0
    assert scores["tasks"]["world/position"]["retention"]["value"] == 1
    assert {row["pixel"]["num_prompts"] for row in scores["tasks"].values()} == {2}


def test_a_broken_picture_is_counted_and_neither_scored_nor_dropped(tmp_path):
    source, pixel = (write_true_pictures(tmp_path / name) for name in ("source", "pixel"))
    whole = (pixel / "3.png").read_bytes()
    # The ends stand: only decoding finds the damage.
    middle = len(whole) // 2
    (pixel / "3.png").write_bytes(whole[:middle] + bytes(20) + whole[middle + 20 :])
    pairs, problems, _ = pair_folders(source, pixel)
    judged, broken = judge_pairs(pairs, LEVEL)
    assert not problems
    assert [(problem.side, problem.file, problem.kind) for problem in broken] == [("pixel", "3.png", "broken")]
    assert len(judged) == len(pairs) - 1


def test_both_models_draw_the_same_and_a_second_call_draws_nothing(models, tmp_path):
    out = tmp_path / "out"
    first = evaluate(*models, out, config=TINY)
    assert first["pairs"] == 12
    assert first["pictures"] == {"source": 12, "pixel": 12}
    assert first["problems"] == []
    assert {"spectrum", "patch_grid", "diversity/filters-v1"} <= first["comparison"]["results"].keys()
    assert first["comparison"]["settings"]["patch_size"] == 16
    assert set(first["tasks"]) == {f"world/{task}" for task in TASKS}
    assert json.loads((out / "evaluation.json").read_text()) == first
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 24
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert evaluate(*models, out, config=TINY) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == made
    with pytest.raises(StateError, match="other settings"):
        evaluate(*models, out, config=EvaluationConfig(**{**vars(TINY), "num_steps": 2}))


def test_unknown_suite_is_refused(models, tmp_path):
    with pytest.raises(ConfigError, match="suite"):
        evaluate(*models, tmp_path, config=EvaluationConfig(suite="geneval"))


def test_the_global_generator_is_left_alone(tmp_path):
    source, pixel = (write_true_pictures(tmp_path / name) for name in ("source", "pixel"))
    judged, _ = judge_pairs(pair_folders(source, pixel)[0], LEVEL)
    before = torch.random.get_rng_state()
    assert scores_of(judged, seed=3) == scores_of(judged[::-1], seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
