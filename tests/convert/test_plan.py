"""The plan on plain key -> shape maps."""

import pytest
from tests.tiny import EXAMPLES, HEAD, tiny_pipeline

from latent2pixel.convert import plan_conversion
from latent2pixel.convert.plan import shapes_of
from latent2pixel.errors import CheckpointError
from latent2pixel.families import load_family, load_pixel_class


@pytest.fixture(params=EXAMPLES)
def maps(request):
    source = tiny_pipeline(request.param).transformer
    pixel = load_pixel_class(request.param).from_config_of(source.config, head_channels=HEAD)
    return {"source": shapes_of(source), "pixel": shapes_of(pixel), "family": load_family(request.param)}


def test_every_key_has_one_place(maps):
    plan = plan_conversion(**maps)
    assert plan.kept.keys() | plan.new.keys() == maps["pixel"].keys()
    assert plan.kept.keys() | plan.dropped.keys() == maps["source"].keys()
    assert sum(key.startswith("head.") for key in plan.new) == 28
    assert not plan.kept.keys() & plan.new.keys()


def test_text_names_what_changes(maps):
    text = plan_conversion(**maps).describe()
    for projection in maps["family"].input_projections:
        assert f"new      {projection}.weight" in text
        assert f"dropped  {projection}.weight" in text
    assert "head.* (28 tensors)" in text


@pytest.mark.parametrize("damage", ["missing", "extra", "reshaped"])
def test_undeclared_differences_are_errors(maps, damage):
    source = dict(maps["source"])
    key = next(key for key in source if key in plan_conversion(**maps).kept)
    if damage == "missing":
        del source[key]
    elif damage == "extra":
        source["surprise.weight"] = (1,)
    else:
        source[key] = (*source[key], 1)
    with pytest.raises(CheckpointError, match="not those of a"):
        plan_conversion(source, maps["pixel"], family=maps["family"])
