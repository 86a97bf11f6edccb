"""More categories by a model: exact shares, nothing alike, and a clear end."""

import json
from collections import Counter

import pytest
from tests.tiny.llm_server import completion, data_of, good_answer, llm_server, send, task_of

from latent2pixel.data.prompting.taxonomy import MajorClass, SubClass, Taxonomy, category_key, load_taxonomy
from latent2pixel.errors import ConfigError


def small(*, first=("red fox", "grey wolf")):
    animals = SubClass(name="animals", share=2, categories=first)
    signs = SubClass(name="signs", share=1)
    posters = SubClass(name="posters")
    return Taxonomy(
        version=1,
        classes=(
            MajorClass(name="nature", share=3, sub_classes=(animals, signs)),
            MajorClass(name="design", share=1, sub_classes=(posters,)),
        ),
    )


def test_shares_are_exact_and_what_was_there_stays_first(write, tmp_path):
    with llm_server() as server:
        report = write(server, num=8, classes=small(), expand_to=200)
        num = len(server.requests)
        write(server, num=8, classes=small(), expand_to=200)
        assert len(server.requests) == num
    subs = load_taxonomy(tmp_path / "prompts" / "taxonomy.yaml").sub_classes()
    counts = {key: len(sub.categories) for key, sub in subs.items()}
    assert counts == {("nature", "animals"): 100, ("nature", "signs"): 50, ("design", "posters"): 50}
    assert subs["nature", "animals"].categories[:2] == ("red fox", "grey wolf")
    assert report.kept == 8
    assert report.replies["expand"] == Counter(server.tasks())["expand"]


def test_repetitions_are_left_out(write, tmp_path):
    """A model that gives the same names in other clothes: only distinct ones count, and they are asked for again."""

    def behave(server, handler, request, number):
        if task_of(request) != "expand":
            return False
        names = json.loads(good_answer(request))["categories"]
        names += [names[0].upper(), names[0] + "s", *data_of(request)["there_already"][:3], "The " + names[1]]
        return send(handler, completion(json.dumps({"categories": names[::-1]})))

    with llm_server(behave) as server:
        write(server, num=4, classes=small(), expand_to=60)
    for sub in load_taxonomy(tmp_path / "prompts" / "taxonomy.yaml").sub_classes().values():
        keys = [category_key(name) for name in sub.categories]
        assert len(set(keys)) == len(keys)
        assert not {key for key in keys if f"the {key}" in keys}


def test_a_model_without_more_ideas_is_told(write):
    def behave(server, handler, request, number):
        same = completion('{"categories": ["brown bear", "polar bear"]}')
        return task_of(request) == "expand" and send(handler, same)

    with llm_server(behave) as server, pytest.raises(ConfigError, match="no more categories for") as told:
        write(server, num=4, classes=small(), expand_to=60)
    assert "the last 3 replies brought none" in told.value.found


def test_more_categories_than_the_share_allows(write):
    with llm_server() as server:
        with pytest.raises(ConfigError, match="too few for exact shares"):
            write(server, num=4, classes=small(first=("red fox", "grey wolf", "barn owl")), expand_to=4)
        assert server.requests == []
