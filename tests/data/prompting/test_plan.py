"""The plan: exact shares, fair use of categories, and batches that share their instructions."""

import collections

import pytest

from latent2pixel.data.prompting.plan import first_batches, next_batches, plan_places
from latent2pixel.data.prompting.taxonomy import MajorClass, SubClass, Taxonomy
from latent2pixel.errors import ConfigError


def plan(taxonomy, **changes):
    return plan_places(taxonomy, **{"num": 1000, "detailed_share": 0.8, "zh_share": 0.3, "seed": 0} | changes)


@pytest.mark.parametrize(
    ("num", "detailed", "zh"), [(1000, 0.8, 0.3), (1, 0.8, 0.2), (333, 0.5, 0.5), (200, 0, 1), (50, 1, 0)]
)
def test_shares_are_exact(taxonomy, num, detailed, zh):
    places = plan(taxonomy, num=num, detailed_share=detailed, zh_share=zh)
    assert [place.number for place in places] == list(range(num))
    assert abs(sum(place.kind == "detailed" for place in places) - num * detailed) <= 0.5
    assert abs(sum(place.language == "zh" for place in places) - num * zh) <= 0.5
    assert collections.Counter(place.key for place in places) == {k: n for k, n in taxonomy.counts(num).items() if n}


def test_shares_hold_within_sub_classes_and_together(taxonomy):
    places = plan(taxonomy)
    for key, count in taxonomy.counts(1000).items():
        mine = [place for place in places if place.key == key]
        assert abs(sum(place.kind == "detailed" for place in mine) - 0.8 * count) <= 1
        both = sum(place.kind == "detailed" and place.language == "zh" for place in mine)
        assert abs(both - 0.24 * count) <= 2


def test_any_beginning_has_the_shares_of_the_whole(taxonomy):
    start = plan(taxonomy)[:200]
    assert all(abs(n - taxonomy.counts(200)[key]) <= 1 for key, n in collections.Counter(p.key for p in start).items())


def test_no_category_comes_again_before_all_came(taxonomy):
    places = plan(taxonomy, num=5000)
    for key, sub in taxonomy.sub_classes().items():
        used = collections.Counter(place.category for place in places if place.key == key)
        assert max(used.values()) - min(used.values()) <= 1
        assert len(used) == len(sub.categories)


def test_the_seed_decides(taxonomy):
    assert plan(taxonomy) == plan(taxonomy)
    assert [place.category for place in plan(taxonomy)] != [place.category for place in plan(taxonomy, seed=1)]


def test_a_share_without_categories_is_refused():
    taxonomy = Taxonomy(version=1, classes=(MajorClass(name="a", sub_classes=(SubClass(name="b"),)),))
    with pytest.raises(ConfigError, match="a/b has no categories"):
        plan(taxonomy)


def test_batches(taxonomy):
    places = plan(taxonomy, num=200)
    batches = first_batches(places, batch_size=8)
    assert sorted(place.number for batch in batches for place in batch.places) == list(range(200))
    assert all(len({(p.major_class, p.kind, p.language) for p in batch.places}) == 1 for batch in batches)
    assert len({batch.name for batch in batches}) == len(batches)
    again = list(next_batches(batches[0], batches[0].places, batch_size=8))
    assert [len(batch.places) for batch in again] == [4, 4]
    once_more = list(next_batches(again[0], again[0].places[:3], batch_size=8))
    assert [(batch.round, len(batch.places)) for batch in once_more] == [(2, 2), (2, 1)]
