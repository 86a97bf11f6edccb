"""The shipped taxonomy, the checks of an edited one, and exact shares."""

import pytest
import yaml

from latent2pixel.data.prompting.near_duplicates import NgramEncoder, near_duplicates
from latent2pixel.data.prompting.taxonomy import (
    MajorClass,
    SubClass,
    Taxonomy,
    apportion,
    category_key,
    load_taxonomy,
    save_taxonomy,
)
from latent2pixel.errors import ConfigError


def test_shipped_taxonomy_is_the_papers_with_1000_distinct_categories(taxonomy):
    assert [major.name for major in taxonomy.classes] == ["nature", "design", "people", "synthetic"]
    assert [len(major.sub_classes) for major in taxonomy.classes] == [7, 6, 4, 3]
    keys = {category_key(name) for sub in taxonomy.sub_classes().values() for name in sub.categories}
    assert len(keys) >= 1300
    # Over all sub-classes at most one category stands twice ("playing cards", played and counted).
    assert taxonomy.num_categories() - len(keys) <= 1
    assert min(len(sub.categories) for sub in taxonomy.sub_classes().values()) >= 50
    assert all(sub.description for sub in taxonomy.sub_classes().values())


def test_shipped_categories_are_not_nearly_alike(taxonomy):
    for key, sub in taxonomy.sub_classes().items():
        named = [(name, name) for name in sub.categories]
        assert near_duplicates([], named, encoder=NgramEncoder(), threshold=0.85) == {}, key


def test_round_trip(taxonomy, tmp_path):
    save_taxonomy(tmp_path / "t.yaml", taxonomy)
    assert load_taxonomy(tmp_path / "t.yaml") == taxonomy


def edited(change):
    loaded = {"version": 1, "classes": [{"name": "a", "sub_classes": [{"name": "b", "categories": ["red fox"]}]}]}
    change(loaded)
    return yaml.safe_dump(loaded)


@pytest.mark.parametrize(
    ("change", "place", "expected"),
    [
        (lambda t: t["classes"][0].update(share=-1), "classes.0.share", "greater than or equal to 0"),
        (lambda t: t["classes"][0].update(share=0), "the file", "every share is zero"),
        (lambda t: t["classes"][0].update(name="../a"), "classes.0.name", "match pattern"),
        (lambda t: t["classes"].append(t["classes"][0]), "the file", "'a' comes twice"),
        (lambda t: t["classes"][0]["sub_classes"][0].update(catgories=[]), "catgories", "nearest name is categories"),
        (lambda t: t["classes"][0]["sub_classes"][0].update(text="greek"), "sub_classes.0.text", "'han'"),
        (
            lambda t: t["classes"][0]["sub_classes"][0]["categories"].append("Red foxes"[:7] + "s"),
            "sub_classes.0",
            "are the same category",
        ),
        (lambda t: t["classes"][0]["sub_classes"][0]["categories"].append(" "), "categories.1", "at least 1"),
        (lambda t: t["classes"][0]["sub_classes"][0]["categories"].append("x" * 201), "categories.1", "at most 200"),
        (lambda t: t.update(version=2), "version", "1"),
        (lambda t: t.pop("classes"), "classes", "required"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(tmp_path, change, place, expected):
    (tmp_path / "t.yaml").write_text(edited(change))
    with pytest.raises(ConfigError) as wrong:
        load_taxonomy(tmp_path / "t.yaml")
    assert place in wrong.value.problem
    assert expected in wrong.value.expected


@pytest.mark.parametrize(
    ("total", "shares", "counts"),
    [
        (10, [1, 1, 1], [4, 3, 3]),
        (1000, [40, 20, 20, 20], [400, 200, 200, 200]),
        (7, [0.1, 0.1, 0.1], [3, 2, 2]),
        (5, [0, 1], [0, 5]),
        (0, [1, 2], [0, 0]),
        (101, [0.5, 0.25, 0.25], [51, 25, 25]),
    ],
)
def test_apportion(total, shares, counts):
    assert apportion(total, shares) == counts


@pytest.mark.parametrize("total", [1, 19, 1000, 10_007])
def test_counts_are_within_one_of_their_quota(taxonomy, total):
    counts = taxonomy.counts(total)
    assert sum(counts.values()) == total
    whole = sum(major.share for major in taxonomy.classes)
    for major in taxonomy.classes:
        of_major = sum(counts[major.name, sub.name] for sub in major.sub_classes)
        assert abs(of_major - total * major.share / whole) < 1
        assert all(
            abs(counts[major.name, sub.name] - of_major / len(major.sub_classes)) < 1 for sub in major.sub_classes
        )


def test_with_categories_replaces_and_checks():
    taxonomy = Taxonomy(version=1, classes=(MajorClass(name="a", sub_classes=(SubClass(name="b"),)),))
    assert taxonomy.with_categories({("a", "b"): ["x", "y"]}).num_categories() == 2
    with pytest.raises(ValueError, match="same category"):
        taxonomy.with_categories({("a", "b"): ["x", "X"]})
