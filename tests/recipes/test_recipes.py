"""Recipes are complete and say what they are named for."""

import dataclasses

import pytest

from latent2pixel.convert import ConversionConfig
from latent2pixel.errors import ConfigError
from latent2pixel.recipes import RECIPES


def test_paper_and_released_differ_only_in_what_trains():
    paper, released = (RECIPES[name]().conversion for name in ("paper", "released"))
    assert (paper.patch_size, paper.head, paper.num_blocks, paper.freezing) == (16, "1k", 5, "paper")
    assert dataclasses.replace(released, freezing="paper") == paper


def test_lift_differs_from_the_paper_only_in_its_start_its_objective_and_its_rates():
    paper, lift = RECIPES["paper"](), RECIPES["lift"]()
    assert dataclasses.replace(lift.conversion, initialisation="random") == paper.conversion
    rates = {"learning_rate": 5e-5, "trunk_rate_factor": 1.0}
    assert dataclasses.replace(lift.training, objective="images", **rates) == paper.training
    assert lift.training.objective == "source"


@pytest.mark.parametrize(
    "wrong",
    [
        {"freezing": "all"},
        {"head": "8k"},
        {"head_feature_norm": "rms"},
        {"initialisation": "lifted"},
        {"warm_up_steps": -1},
    ],
)
def test_unknown_values_are_refused(wrong):
    with pytest.raises(ConfigError):
        ConversionConfig(**wrong)
