"""DPG-Bench's score of single pictures in any folder: every picture gets the score of its place in the grid."""

import random

import pytest
from tests.evaluate.dpg.small_bench import PROMPTS, ColourJudge, picture, save_grid, small_bench

from latent2pixel.evaluate.dpg.images import first_prompts, judge_grids
from latent2pixel.evaluate.dpg.score import score_dpg
from latent2pixel.evaluate.pairs import list_images
from latent2pixel.io.images import png_of
from latent2pixel.io.records import write_records

SAMPLES = {
    "first": [("red", "green"), ("red",), (), ("green",)],
    "plain1": [("red", "green", "blue"), ("red", "green"), ("red", "blue"), ("red",)],
    "7": [(), ("blue",), (), ()],
}
SEEDS = [3, 10, 20, 100]
SCORES = {"first": [1, 0.5, 0, 0], "plain1": [1, 2 / 3, 1 / 3, 1 / 3], "7": [0, 1, 0, 0]}
"""By hand: a colour counts if all colours before it are there."""


@pytest.fixture
def bench(tmp_path):
    return small_bench(tmp_path / "bench")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "drawn").mkdir()
    records = []
    for item, samples in SAMPLES.items():
        for seed, colours in zip(SEEDS, samples, strict=True):
            name = f"{len(records)}.png"
            (tmp_path / "drawn" / name).write_bytes(png_of(picture(*colours)))
            records.append({"file_name": name, "prompt": PROMPTS[item], "seed": seed})
    random.Random(2).shuffle(records)
    write_records(tmp_path / "drawn" / "metadata.jsonl", records)
    return tmp_path / "drawn"


def judge(folder, out, bench, judge=None):
    listed = list_images(folder, "model")
    return judge_grids(listed, out, judge or ColourJudge(), bench=bench, num_samples=4, side_px=8)


def test_every_picture_gets_the_score_of_its_seed(folder, bench, tmp_path):
    judgement = judge(folder, tmp_path / "judged", bench)
    found = {key: one.score for key, one in judgement.scores.items()}
    expected = {
        (PROMPTS[item], seed): score
        for item, scores in SCORES.items()
        for seed, score in zip(SEEDS, scores, strict=True)
    }
    assert found == pytest.approx(expected)
    assert judgement.scores[PROMPTS["7"], 10].file == list_images(folder, "model").paths[PROMPTS["7"], 10]
    assert judgement.record["key"] == "dpg-format/colours/corrected"


def test_the_record_is_that_of_the_same_grids(folder, bench, tmp_path):
    for item, samples in SAMPLES.items():
        save_grid(tmp_path / "grids", item, *samples)
    official = score_dpg(tmp_path / "grids", ColourJudge(), bench=bench, side_px=8).as_record()
    record = judge(folder, tmp_path / "judged", bench).record
    assert {key: record[key] for key in official if key != "results"} == {
        key: value for key, value in official.items() if key != "results"
    }


def test_a_prompt_with_a_missing_picture_is_told_and_not_scored(folder, bench, tmp_path):
    list_images(folder, "model").paths[PROMPTS["first"], 20].unlink()
    judgement = judge(folder, tmp_path / "judged", bench)
    assert {prompt for prompt, _ in judgement.scores} == {PROMPTS["plain1"], PROMPTS["7"]}
    assert judgement.record["missing"] == ("first",)
    assert judgement.record["incomplete"][0].startswith("first: ")


def test_a_killed_judge_goes_on_and_a_second_call_asks_nothing(folder, bench, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        judge(folder, tmp_path / "judged", bench, ColourJudge(fails_after=1))
    rest = ColourJudge()
    killed = judge(folder, tmp_path / "judged", bench, rest)
    assert rest.num_grids == 2
    assert killed == judge(folder, tmp_path / "judged", bench, rest) == judge(folder, tmp_path / "whole", bench)
    assert rest.num_grids == 2


def test_a_part_of_the_set_is_a_set_of_its_own(bench):
    part = first_prompts(bench, 2)
    assert list(part.prompts) == list(bench.prompts)[:2]
    assert {row.item for row in part.rows} == set(part.prompts)
    assert not part.is_official
    assert first_prompts(bench, None) is first_prompts(bench, 3) is bench
