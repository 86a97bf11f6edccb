"""The world's verifier as a judge of folders, and the retention that it finds."""

import pytest
from tests.workflow.true_pictures import LEVEL, write_true_pictures

from latent2pixel.errors import DataError
from latent2pixel.evaluate.pairs import list_images
from latent2pixel.io.records import read_records, write_records
from latent2pixel.workflow.world_judge import judge_world, world_retention
from latent2pixel.world.captions import TASKS
from latent2pixel.world.score import score_folder


def test_the_score_is_the_worlds_own(tmp_path):
    folder = write_true_pictures(tmp_path / "pictures", wrong=("position",))
    scores = judge_world(list_images(folder, "model"), folder, level=LEVEL).scores
    assert {one.task for one in scores.values()} == {f"world/{task}" for task in TASKS}
    assert sum(one.score for one in scores.values()) / 12 == pytest.approx(score_folder(folder, LEVEL).score)


def test_retention_is_paired(tmp_path):
    """Both get the same tasks wrong: each score alone is uncertain, their ratio is not."""
    source = write_true_pictures(tmp_path / "source", wrong=("counting",))
    kept = world_retention(source, source, level=LEVEL, seed=0)
    assert (kept.value, kept.low, kept.high, kept.standard_error) == (1, 1, 1, 0)
    pixel = write_true_pictures(tmp_path / "pixel", wrong=("counting", "colors", "position"))
    assert world_retention(source, pixel, level=LEVEL, seed=0).value == pytest.approx(3 / 5)
    assert world_retention(pixel, source, level=LEVEL, seed=0).value == pytest.approx(5 / 3)


def test_retention_of_a_source_that_scores_nothing_is_no_number(tmp_path):
    nothing = write_true_pictures(tmp_path / "source", wrong=TASKS)
    kept = world_retention(nothing, write_true_pictures(tmp_path / "pixel"), level=LEVEL, seed=0)
    assert (kept.value, kept.low, kept.standard_error) == (None, None, None)


def test_retention_without_a_pair_is_refused(tmp_path):
    source, pixel = (write_true_pictures(tmp_path / name) for name in ("source", "pixel"))
    write_records(pixel / "metadata.jsonl", [line | {"seed": 6} for line in read_records(pixel / "metadata.jsonl")])
    with pytest.raises(DataError, match="no retention"):
        world_retention(source, pixel, level=LEVEL, seed=0)
