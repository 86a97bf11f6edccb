"""Scores of judged pictures: joined by prompt and seed, by task, over runs."""

from pathlib import Path

import pytest

from latent2pixel.evaluate.scores import PictureScore, join_sides, scores_of, scores_over_runs

VALUES = {"source": [1.0, 1.0, 1.0, 0.5, 1.0, 1.0], "pixel": [1.0, 0.0, 0.5, 0.5, 0.25, 0.25]}
TASKS = ["t/a", "t/a", "t/b", "t/b", "t/b", "t/b"]


def pictures_of(side, *, without=()):
    return {
        (f"prompt {index}", 7): PictureScore(file=Path(f"{side}/{index}.png"), task=task, score=VALUES[side][index])
        for index, task in enumerate(TASKS)
        if index not in without
    }


def test_scores_are_means_of_task_means_and_may_be_shares_of_a_picture():
    scores = scores_of(join_sides({side: pictures_of(side) for side in VALUES}), seed=0)
    means = {name: estimate["value"] for name, estimate in scores["score"].items()}
    assert means == pytest.approx({"source": (1 + 0.875) / 2, "pixel": (0.5 + 0.375) / 2, "retention": 0.875 / 1.875})
    assert scores["tasks"]["t/b"]["retention"]["value"] == pytest.approx(0.375 / 0.875)
    assert scores["score"]["pixel"]["low"] < means["pixel"] < scores["score"]["pixel"]["high"]
    assert (scores["score"]["pixel"]["num_images"], scores["tasks"]["t/a"]["pixel"]["num_images"]) == (6, 2)


def test_a_picture_without_its_partner_is_left_out():
    judged = join_sides({"source": pictures_of("source", without=(0,)), "pixel": pictures_of("pixel", without=(3, 5))})
    assert [one.prompt for one in judged] == ["prompt 1", "prompt 2", "prompt 4"]
    assert judged[0].pictures["source"].file == Path("source/1.png")
    assert judged[0].pictures["pixel"].file == Path("pixel/1.png")
    assert [one.task for one in judged] == ["t/a", "t/b", "t/b"]


def test_one_side_has_no_retention():
    scores = scores_of(join_sides({"model": pictures_of("pixel")}), seed=0)
    assert list(scores["score"]) == ["model"]
    assert scores["tasks"]["t/a"]["model"]["value"] == 0.5


def test_runs_have_a_mean_and_a_deviation_and_a_gap_is_no_mean():
    runs = [
        {
            "score": {"pixel": {"value": value}, "retention": {"value": kept}},
            "tasks": {"t/a": {"pixel": {"value": 2 * value}}, **extra},
        }
        for value, kept, extra in ((0.25, 0.5, {"t/b": {"pixel": {"value": 1.0}}}), (0.75, None, {}))
    ]
    over = scores_over_runs(runs)
    assert over["score"]["pixel"]["mean"] == 0.5
    assert over["score"]["pixel"]["standard_deviation"] == pytest.approx(0.125**0.5)
    assert over["score"]["retention"] is None
    assert over["tasks"]["t/a"]["pixel"]["runs"] == [0.5, 1.5]
    assert "t/b" not in over["tasks"]  # one run alone has it
