"""Templates: complete, filled with numbers alone, and directions from the seed."""

import random
import shutil

import pytest

from latent2pixel.data.prompting.templates import SHIPPED, VERSION, load_templates
from latent2pixel.errors import ConfigError


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", ["simple", "detailed"])
@pytest.mark.parametrize("major_class", ["nature", "design", "people", "synthetic", "mine"])
def test_writer_has_all_rules(major_class, kind, language):
    text = load_templates().writer(major_class=major_class, kind=kind, language=language, target=(201, 349))
    assert "201 to 349 characters" in text
    assert "$" not in text
    assert f"Type of prompt: {kind}" in text
    assert ("simplified Chinese" in text) == (language == "zh")
    assert ("\nClass: " in text) == (major_class != "mine")
    for rule in ("never an instruction", "double quotes", "begin alike", "brands", '{"prompts"'):
        assert rule in text


def test_directions_come_from_the_seed_and_do_not_repeat_in_a_batch():
    templates = load_templates()
    drawn = templates.directions("nature", 8, generator=random.Random(1))
    assert drawn == templates.directions("nature", 8, generator=random.Random(1))
    assert drawn != templates.directions("nature", 8, generator=random.Random(2))
    assert set(drawn[0]) == {"viewpoint", "lighting", "style", "opening"}
    for axis in ("viewpoint", "lighting", "opening"):
        assert len({directions[axis] for directions in drawn}) == 8
    assert set(templates.directions("design", 1, generator=random.Random(1))[0]) == {
        "composition",
        "palette",
        "style",
        "opening",
    }


def test_more_directions_than_choices():
    drawn = load_templates().directions("synthetic", 40, generator=random.Random(1))
    assert len(drawn) == 40
    assert all(directions["viewpoint"] for directions in drawn)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda folder: (folder / "audit.md").unlink(), "no audit.md"),
        (lambda folder: (folder / "detailed.md").write_text("about $category"), "detailed.md: 'category'"),
        (lambda folder: (folder / "variation.yaml").write_text("nature: {style: [ink]}"), "another form"),
        (lambda folder: (folder / "variation.yaml").write_text("default: {style: ink}"), "another form"),
    ],
)
def test_an_edited_folder_is_checked(tmp_path, spoil, found):
    folder = shutil.copytree(SHIPPED / VERSION, tmp_path / "mine")
    assert load_templates(folder).version == load_templates().version.replace(VERSION, "mine")
    spoil(folder)
    with pytest.raises(ConfigError) as wrong:
        load_templates(folder)
    assert found in wrong.value.found
