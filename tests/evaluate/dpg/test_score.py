"""Scoring whole folders with a judge that looks for colours."""

import json
import random
import shutil

import pytest
import torch
from tests.evaluate.dpg.small_bench import ROWS, ColourJudge, asks, save_grid, small_bench

from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.dpg.score import score_dpg
from latent2pixel.io.images import png_of

RESULTS = "dpg-format-colours.jsonl"
ALL = ("red", "green", "blue")


@pytest.fixture
def bench(tmp_path):
    return small_bench(tmp_path / "bench")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "grids"
    save_grid(folder, "first", ("red", "green"), ("green",), ("red",), ("red", "green"))
    save_grid(folder, "plain1", ALL, ("red", "blue"), ("green", "blue"), ("red", "green"))
    save_grid(folder, "7", ("blue",), ("red",), ("red",), ("red",))
    return folder


def same(one, other):
    assert {**one.as_record(), "results": ""} == {**other.as_record(), "results": ""}


def test_both_sets_of_rules_by_hand(folder, bench):
    result = score_dpg(folder, ColourJudge(), bench=bench)
    # first: red, then green if red. Samples 2/2, 0 (green, but no red), 1/2, 2/2.
    # plain1: 3/3; red 1/3 (no green, so blue does not count); 0 (no red, so nothing does); 2/3.
    # 7: 1, 0, 0, 0.
    first, plain, seven = 2.5 / 4, 2 / 4, 1 / 4
    assert result.corrected.score == pytest.approx(100 * (first + plain + seven) / 3, rel=1e-12)
    assert (result.corrected.num_prompts, result.corrected.dropped) == (3, ())
    # Officially "first" has lost question 1, on which question 2 depends: the first sample says yes, so it is dropped.
    assert result.official.dropped == ("first: question 2 depends on question 1, which the program does not have",)
    assert result.official.score == pytest.approx(100 * (plain + seven) / 2, rel=1e-12)
    assert result.official.standard_error == pytest.approx(100 * (plain - seven) / 2, rel=1e-12)
    assert (result.official.key, result.corrected.key) == (
        "dpg-format/colours/official",
        "dpg-format/colours/corrected",
    )
    assert (result.num_images, result.num_samples, result.num_missing) == (3, 4, 0)
    assert result.sizes == {"16 x 16": 3}
    assert (result.missing, result.broken, result.unanswered, result.ignored, result.oddities) == ((), (), (), (), ())
    assert result.judge == {"name": "colours"}


def test_categories_by_hand(folder, bench):
    result = score_dpg(folder, ColourJudge(), bench=bench)
    # Corrected, over four samples: red 3 of first and 3 of plain1; green 2 (where red) and 2; blue 1 of plain1.
    corrected = {name: (mean.score, mean.num_answers) for name, mean in result.corrected.categories.items()}
    assert corrected == {
        "entity - whole": (pytest.approx(100 * 6 / 8), 8),
        "attribute - color": (pytest.approx(100 * 4 / 8), 8),
        "attribute - size": (25.0, 4),
        "global -": (25.0, 4),
    }
    assert result.corrected.groups["attribute"].score == pytest.approx(100 * 5 / 12)
    assert set(result.corrected.groups) == {"attribute", "entity", "global"}
    # Officially the last sample of plain1 and 7 alone: red and green, no blue; red.
    official = {name: (mean.score, mean.num_answers) for name, mean in result.official.categories.items()}
    assert official == {
        "entity - whole": (100.0, 1),
        "attribute - color": (100.0, 1),
        "attribute - size": (0.0, 1),
        "global -": (0.0, 1),
    }


def test_one_line_a_picture_with_its_answers(folder, bench):
    score_dpg(folder, ColourJudge(), bench=bench)
    lines = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    assert [line["image"] for line in lines] == ["7.png", "first.png", "plain1.png"]
    assert lines[2]["answers"][1] == {asks("red"): "yes", asks("green"): "no", asks("blue"): "yes"}
    assert lines[2]["official"] == lines[2]["corrected"] == [1.0, 1 / 3, 0.0, 2 / 3]
    assert lines[1]["corrected"] == [1.0, 0.0, 0.5, 1.0]
    assert "depends on question 1" in lines[1]["official"]
    assert [path.name for path in folder.glob("*.jsonl*")] == [RESULTS]


def test_the_order_on_the_disk_does_not_matter(folder, bench, tmp_path):
    files = list(folder.iterdir())
    random.Random(1).shuffle(files)
    other = tmp_path / "shuffled"
    other.mkdir()
    for path in files:
        shutil.copyfile(path, other / path.name)
    same(score_dpg(folder, ColourJudge(), bench=bench), score_dpg(other, ColourJudge(), bench=bench))
    assert (folder / RESULTS).read_bytes() == (other / RESULTS).read_bytes()


def test_missing_broken_and_odd_pictures_are_named_and_not_scored(folder, bench):
    (folder / "first.png").unlink()
    (folder / "plain1.png").write_bytes((folder / "plain1.png").read_bytes()[:50])
    for name in ("stranger.png", "notes.txt", ".hidden.png"):
        (folder / name).write_text("x")
    result = score_dpg(folder, ColourJudge(), bench=bench)
    assert (result.missing, result.num_missing, result.num_images) == (("first",), 1, 1)
    assert [entry.split(": ")[0] for entry in result.broken] == ["plain1.png"]
    assert result.ignored == ("notes.txt", "stranger.png")
    assert result.corrected.score == result.official.score == 25.0
    # Made again, they count.
    save_grid(folder, "plain1", ALL, ALL, ALL, ALL)
    again = score_dpg(folder, ColourJudge(), bench=bench)
    assert (again.broken, again.corrected.num_prompts, again.corrected.score) == ((), 2, 62.5)


def test_a_folder_without_any_whole_picture_has_no_score(folder, bench):
    for path in folder.iterdir():
        path.write_text("no picture")
    result = score_dpg(folder, ColourJudge(), bench=bench)
    assert (result.corrected.score, result.official.score, len(result.broken)) == (None, None, 3)


def test_files_that_are_no_grid_or_of_another_size_are_broken(folder, bench):
    (folder / "7.png").write_bytes(png_of(png_sized(15, 16)))
    (folder / "first.png").write_bytes(png_of(png_sized(18, 18)))
    result = score_dpg(folder, ColourJudge(), bench=bench, side_px=8)
    assert [entry.split(": ")[0] for entry in result.broken] == ["7.png", "first.png"]
    assert "18 x 18 px" in result.broken[1]
    result = score_dpg(folder, ColourJudge(), bench=bench)
    assert result.broken == ("7.png: 16 x 15 px",)
    assert result.sizes == {"16 x 16": 1, "18 x 18": 1}


def png_sized(height, width):
    return torch.zeros(3, height, width, dtype=torch.uint8)


def test_single_pictures_are_scored_whole_under_another_key(folder, bench):
    result = score_dpg(folder, ColourJudge(), bench=bench, num_samples=1, side_px=16)
    # Somewhere in the grid of plain1 is all of it; in that of 7 there is blue.
    assert result.corrected.score == 100.0
    assert result.corrected.key == "dpg-format/colours+1-sample/corrected"
    assert result.num_samples == 1
    with pytest.raises(ConfigError, match="no grid of so many"):
        score_dpg(folder, ColourJudge(), bench=bench, num_samples=2)


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_where_it_stopped(folder, bench, tmp_path, done, torn):
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(KeyboardInterrupt):
        score_dpg(folder, ColourJudge(fails_after=done), bench=bench)
    journal = folder / f"{RESULTS}.journal"
    assert not (folder / RESULTS).exists()
    if torn and done:
        journal.write_bytes(journal.read_bytes()[:-7])
    rest = ColourJudge()
    result = score_dpg(folder, rest, bench=bench)
    assert rest.num_grids == 3 - done + (torn and done > 0)
    assert not journal.exists()
    same(result, score_dpg(copy, ColourJudge(), bench=bench))
    assert (folder / RESULTS).read_bytes() == (copy / RESULTS).read_bytes()


def test_only_what_changed_is_asked_again(folder, bench, tmp_path):
    score_dpg(folder, ColourJudge(), bench=bench)
    again = ColourJudge()
    score_dpg(folder, again, bench=bench)
    assert again.num_grids == 0
    save_grid(folder, "7", ("blue",), ("blue",), ("blue",), ("blue",))
    assert score_dpg(folder, again, bench=bench).official.categories["global -"].score == 100.0
    assert again.num_grids == 1
    # Other dependencies change no answer, other questions do.
    rows = [(item, number, "0", *rest) for item, number, _, *rest in ROWS]
    result = score_dpg(folder, again, bench=small_bench(tmp_path / "flat", rows=rows))
    assert again.num_grids == 1
    assert result.official.dropped == ()
    assert result.official.score == pytest.approx(100 * (3 / 4 + 9 / 12 + 1) / 3)
    score_dpg(folder, again, bench=small_bench(tmp_path / "more", rows=[*ROWS, ("7", 2, "0", "global -", "red")]))
    assert again.num_grids == 2
    other = ColourJudge(name="other")
    score_dpg(folder, other, bench=bench, results=folder / RESULTS)
    assert other.num_grids == 3
    score_dpg(folder, other, bench=bench, results=folder / RESULTS, num_samples=1)
    assert other.num_grids == 6


def test_pictures_that_the_judge_leaves_open_are_named_and_asked_again(folder, bench):
    result = score_dpg(folder, ColourJudge(silent_about=[asks("green")]), bench=bench)
    assert result.unanswered == ("first.png: 4 of 8 questions", "plain1.png: 4 of 12 questions")
    assert (result.num_images, result.corrected.num_prompts, result.corrected.score) == (1, 1, 25.0)
    judge = ColourJudge()
    result = score_dpg(folder, judge, bench=bench)
    assert (judge.num_grids, result.unanswered, result.num_images) == (2, (), 3)


def test_an_item_that_loses_its_only_question_is_dropped_officially(tmp_path, folder):
    bench = small_bench(tmp_path / "bench", rows=[ROWS[0], *ROWS[2:]])
    result = score_dpg(folder, ColourJudge(), bench=bench)
    assert result.official.dropped == ("first: the program has no question about it",)
    assert result.corrected.num_prompts == 3


def test_nothing_to_score_or_two_pictures_for_a_prompt_are_refused(folder, bench, tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match="nothing for DPG-Bench to score"):
            score_dpg(path, ColourJudge(), bench=bench)
    shutil.copyfile(folder / "7.png", folder / "7.jpg")
    with pytest.raises(DataError, match="two pictures") as error:
        score_dpg(folder, ColourJudge(), bench=bench)
    assert error.value.found == f"7 under several endings in {folder}"


def test_progress_counts_pictures(folder, bench):
    told = []
    score_dpg(folder, ColourJudge(), bench=bench, on_image=lambda *counts: told.append(counts))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_results_go_where_they_are_wanted(folder, bench, tmp_path):
    results = tmp_path / "there" / "results.jsonl"
    assert score_dpg(folder, ColourJudge(), bench=bench, results=results).results == str(results)
    assert len(results.read_text().splitlines()) == 3
    assert not (folder / RESULTS).exists()
