"""The model card: front matter that the Hub can read, and the figures of the record."""

import json

import pytest
import yaml
from tests.tiny import EXAMPLES, HEAD, noise, save_tiny_pipeline

from latent2pixel.convert import convert
from latent2pixel.convert.card import model_card
from latent2pixel.convert.images import FitImages

LIFTED = {"input_map": "random", "warm_up_steps": 0}
"""A VAE with random weights is refused by a fit, not by a comparison."""


@pytest.fixture(scope="module", params=EXAMPLES)
def source(request, tmp_path_factory):
    return save_tiny_pipeline(request.param, tmp_path_factory.mktemp(request.param) / "tiny-source")


@pytest.fixture(scope="module")
def lifted(source, tmp_path_factory):
    images = FitImages(name="noise", images=noise(12, 3, 256, 256))
    folder = tmp_path_factory.mktemp("lifted") / "pixel"
    return convert(source, folder, head=HEAD, num_blocks=1, seed=7, fit_images=images, **LIFTED).folder


def read(folder):
    """Return front matter, text and record."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text, json.loads((folder / "conversion.json").read_text())


def test_card_of_a_plain_conversion(source, tmp_path):
    front, text, record = read(convert(source, tmp_path / "pixel", head=HEAD, num_blocks=1, seed=7).folder)
    assert front == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["latent2pixel", "pixel-space", "paper"],
    }
    assert "has to be trained" in text
    assert "R^2" not in text
    assert "| seed | 7 |" in text
    assert f"torch {record['versions']['torch']}" in text
    assert "import latent2pixel" in text
    assert "source's licence" in text
    assert "tiny-source" in text
    assert str(source.parent) not in text


def test_card_of_a_lift_tells_the_figures_of_the_record(lifted):
    front, text, record = read(lifted)
    assert "lift" in front["tags"]
    assert "| input map | random |" in text
    assert "for comparison only" in text
    for key in ("r2_in", "r2_out", "scale", "noise_gain"):
        assert f"| {record['lift'][key]:.4g} |" in text
    for colour, left in zip(("red", "green", "blue"), record["lift"]["residual_by_channel"], strict=True):
        assert f"| {colour} | {left['variance']:.4g} | {left['share']:.4g} |" in text
    assert "has to be trained" not in text
    record["settings"]["input_map"] = "procrustes"
    assert "for comparison only" not in model_card(record)


def test_card_names_a_source_from_the_hub(lifted):
    record = read(lifted)[2]
    card = model_card(record, base_model="owner/name")
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "owner/name"
    assert "# owner/name in pixel space" in card
