"""Captions: two disjoint halves, large enough, the same everywhere."""

import hashlib
import os
import subprocess
import sys

import pytest

from latent2pixel.errors import ConfigError
from latent2pixel.world.captions import (
    TASKS,
    Request,
    captions,
    draw_captions,
    heldout_captions,
    is_heldout,
    require_split,
)
from latent2pixel.world.levels import LEVELS, require_level

DIGEST = """
import hashlib
from latent2pixel.world.captions import TASKS, captions, heldout_captions
from latent2pixel.world.levels import LEVELS
texts = [c.text for level in LEVELS.values() for task in TASKS for c in captions(level, task, "heldout")]
texts += [c.text for level in LEVELS.values() for c in heldout_captions(level, 30, seed=3)]
print(hashlib.sha256("|".join(texts).encode()).hexdigest())
"""


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_every_task_has_disjoint_halves_of_useful_size(level, task):
    train = {caption.text for caption in captions(level, task, "train")}
    heldout = {caption.text for caption in captions(level, task, "heldout")}
    assert not train & heldout
    assert len(heldout) >= 50
    assert len(train) > len(heldout)
    assert all(caption.task == task for caption in captions(level, task, "train"))


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_no_heldout_sentence_is_trained_as_another_task(level):
    train = {caption.text for task in TASKS for caption in captions(level, task, "train")}
    assert not any(is_heldout(text) for text in train)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_every_sentence_has_one_meaning(level):
    everything = [c for task in TASKS for split in ("train", "heldout") for c in captions(level, task, split)]
    assert len({caption.text for caption in everything}) == len(everything)


def test_captions_are_the_same_in_another_process():
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    texts = [c.text for level in LEVELS.values() for task in TASKS for c in captions(level, task, "heldout")]
    texts += [c.text for level in LEVELS.values() for c in heldout_captions(level, 30, seed=3)]
    assert digests == {hashlib.sha256("|".join(texts).encode()).hexdigest()}


def test_drawn_captions_are_balanced_and_distinct():
    drawn = heldout_captions(LEVELS["easy"], 120, seed=0)
    assert {task: sum(caption.task == task for caption in drawn) for task in TASKS} == dict.fromkeys(TASKS, 20)
    assert len({caption.text for caption in drawn}) == 120
    assert drawn != heldout_captions(LEVELS["easy"], 120, seed=1)
    assert not any(is_heldout(caption.text) for caption in draw_captions(LEVELS["easy"], "train", 60, seed=0))


@pytest.mark.parametrize(
    ("request_", "phrase"),
    [
        (Request(shape="circle"), "a circle"),
        (Request(shape="square", color="orange"), "an orange square"),
        (Request(shape="cross", count=3), "three crosses"),
        (Request(shape="star", size="small", pattern="striped", color="red"), "a small striped red star"),
    ],
)
def test_phrase(request_, phrase):
    assert request_.phrase() == phrase


def test_unknown_names_are_users_errors():
    with pytest.raises(ConfigError, match="heldout"):
        require_split("test")
    with pytest.raises(ConfigError, match="easy, medium, full"):
        require_level("hard")
