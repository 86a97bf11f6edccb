"""Our own prompts: reproducible, distinct, balanced, and none of GenEval's."""

import json
from collections import Counter

import pytest

from latent2pixel.evaluate.geneval.names import CLASSES, COLOURS, TASKS
from latent2pixel.evaluate.geneval.six_tasks import FILE, SEED, load_six_tasks, make_six_tasks, noun, plural


@pytest.fixture(scope="module")
def prompts():
    return load_six_tasks()


def of_task(prompts, task):
    return [prompt for prompt in prompts if prompt.task == task]


def test_the_shipped_file_is_what_the_generator_makes(prompts):
    made = make_six_tasks(SEED)
    assert prompts == made
    assert FILE.read_text() == "".join(json.dumps(prompt.as_record()) + "\n" for prompt in made)
    assert make_six_tasks(SEED + 1) != made


def test_sizes(prompts):
    assert {task: len(of_task(prompts, task)) for task in TASKS} == dict(zip(TASKS, [80] + [100] * 5, strict=True))
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)


def test_no_sentence_is_one_of_the_official_set(prompts):
    # All 553 of them begin so.
    assert not [prompt.prompt for prompt in prompts if prompt.prompt.lower().startswith("a photo of")]


def test_numbers_colours_and_relations_come_equally_often(prompts):
    counting = of_task(prompts, "counting")
    assert sorted(Counter(prompt.include[0].count for prompt in counting).values()) == [33, 33, 34]
    assert all(
        (prompt.exclude[0].class_name, prompt.exclude[0].count)
        == (prompt.include[0].class_name, prompt.include[0].count + 1)
        for prompt in counting
    )
    colours = Counter(prompt.include[0].colour for prompt in of_task(prompts, "colors"))
    assert colours == dict.fromkeys(COLOURS, 10)
    relations = Counter(prompt.include[1].position for prompt in of_task(prompts, "position"))
    assert relations == {(name, 0): 25 for name in ("left of", "right of", "above", "below")}
    both = [(prompt.include[0], prompt.include[1]) for prompt in of_task(prompts, "color_attr")]
    assert Counter(one.colour for one, _ in both) == dict.fromkeys(COLOURS, 10)
    assert all(one.colour != other.colour and one.class_name != other.class_name for one, other in both)


def test_sentences_say_what_the_clauses_want(prompts):
    for prompt in prompts:
        text = prompt.prompt.lower()
        for clause in prompt.include:
            name = plural(clause.class_name) if clause.count > 1 else noun(clause.class_name, clause.colour)
            assert name in text, prompt
    position = of_task(prompts, "position")[0]
    relation = position.include[1].position[0]
    first, second = noun(position.include[1].class_name), noun(position.include[0].class_name)
    assert position.prompt.lower().index(first) < position.prompt.index(relation) < position.prompt.rindex(second)


@pytest.mark.parametrize(
    ("name", "colour", "expected"),
    [
        ("bench", None, "a bench"),
        ("umbrella", None, "an umbrella"),
        ("bench", "orange", "an orange bench"),
        ("umbrella", "red", "a red umbrella"),
        ("scissors", "blue", "a pair of blue scissors"),
        ("broccoli", None, "a head of broccoli"),
    ],
)
def test_nouns(name, colour, expected):
    assert noun(name, colour) == expected


def test_plurals():
    words = {name: plural(name) for name in CLASSES}
    assert [words[name] for name in ("person", "bus", "couch", "toothbrush", "knife", "sheep", "computer mouse")] == [
        "people",
        "buses",
        "couches",
        "toothbrushes",
        "knives",
        "sheep",
        "computer mice",
    ]
    assert words["cat"] == "cats"
