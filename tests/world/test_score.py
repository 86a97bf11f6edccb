"""Scores against numbers worked out by hand."""

import json
import math
import random

import numpy as np
import pytest
from PIL import Image

from latent2pixel.errors import DataError
from latent2pixel.io.records import write_records
from latent2pixel.world.captions import captions, heldout_captions
from latent2pixel.world.levels import LEVELS
from latent2pixel.world.render import render
from latent2pixel.world.scenes import compose_scene
from latent2pixel.world.score import caption_of, score_folder, score_images
from latent2pixel.world.truth import render_folder

EASY = LEVELS["easy"]
EMPTY = np.full((64, 64, 3), 125, np.uint8)


def right(caption, seed=0):
    return render(compose_scene(EASY, caption, generator=random.Random(seed)), 64)


def three(task):
    """Return three captions of a task that no picture can satisfy two of."""
    wanted = {"counting": ["two circles", "three squares", "two triangles"],
              "colors": ["a red circle", "a blue square", "a green triangle"]}[task]  # fmt: skip
    return [caption_of(EASY, text) for text in wanted]


def test_score_and_clustered_error_by_hand():
    a, b, c = three("counting")
    wanted = [a, a, b, b, c, c]
    images = [right(a), EMPTY, right(b), right(b, 1), EMPTY, EMPTY]
    part = score_images(images, wanted).tasks["counting"]
    # Means of the captions: 0.5, 1, 0. Their deviation is 0.5, so the error is 0.5 / sqrt(3), not that of 6 pictures.
    assert part.score == pytest.approx(0.5)
    assert part.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert (part.num_images, part.num_captions) == (6, 3)
    assert part.chance == 0


def test_score_weighs_tasks_equally():
    counting, colors = three("counting"), three("colors")
    images = [*map(right, counting), right(colors[0]), EMPTY, EMPTY] + [EMPTY] * 3
    score = score_images(images, [*counting, *colors, *colors])
    assert score.tasks["counting"].score == 1
    assert score.tasks["colors"].score == pytest.approx(1 / 6)
    assert score.score == pytest.approx((1 + 1 / 6) / 2)
    # Means of the captions of "colors": 0.5, 0, 0; deviation 0.5 / sqrt(3), error a sqrt(3)-th of it.
    assert score.standard_error == pytest.approx(math.hypot(0, 0.5 / 3) / 2)
    assert (score.num_images, score.num_captions) == (9, 6)
    assert json.loads(json.dumps(score.as_record()))["tasks"]["colors"]["num_captions"] == 3


def test_chance_of_captions_that_differ_in_words_only_is_one():
    same = [caption_of(EASY, text) for text in ("a circle", "a photo of a circle", "a print of a circle")]
    part = score_images([right(caption) for caption in same], same).tasks["single_object"]
    assert (part.score, part.chance) == (1, 1)


def test_chance_of_true_pictures_is_far_below_their_score():
    wanted = heldout_captions(EASY, 60)
    score = score_images([right(caption) for caption in wanted], wanted)
    assert score.score >= 0.98
    assert 0 < score.chance < 0.35
    assert "chance" in str(score)


def test_error_of_one_caption_is_unknown_not_zero():
    a = three("counting")[0]
    part = score_images([right(a)], [a]).tasks["counting"]
    assert math.isnan(part.standard_error)
    assert math.isnan(part.chance)


def test_unpaired_pictures_are_a_users_error():
    with pytest.raises(DataError, match="1 pictures and 3 captions"):
        score_images([EMPTY], three("colors"))
    with pytest.raises(DataError, match="0 pictures"):
        score_images([], [])


def test_unknown_caption_is_a_users_error():
    with pytest.raises(DataError, match="a purple dog"):
        caption_of(EASY, "a purple dog")
    with pytest.raises(DataError, match="level easy"):
        caption_of(EASY, "a purple star")


def test_caption_is_found_by_its_text():
    for task in ("position", "color_attr"):
        caption = captions(EASY, task, "train")[7]
        assert caption_of(EASY, caption.text) == caption


def test_flat_folder_is_scored(tmp_path):
    folder = render_folder(tmp_path / "truth", EASY, num=12, size_px=64, seed=0)
    score = score_folder(folder, EASY)
    assert (score.score, score.num_images) == (1, 12)


def test_folder_of_shards_is_scored(tmp_path):
    wanted = heldout_captions(EASY, 12)
    for shard in range(2):
        folder = tmp_path / f"shard-{shard:05d}"
        folder.mkdir()
        for index, caption in enumerate(wanted[shard::2]):
            Image.fromarray(right(caption) if shard else EMPTY).save(folder / f"{index}.png")
        records = [{"file_name": f"{i}.png", "prompt": caption.text} for i, caption in enumerate(wanted[shard::2])]
        write_records(folder / "metadata.jsonl", records)
    score = score_folder(tmp_path, EASY)
    assert score.num_images == 12
    assert score.score == pytest.approx(0.5)


def test_empty_folder_is_a_users_error(tmp_path):
    with pytest.raises(DataError, match="0 pictures"):
        score_folder(tmp_path, EASY)
