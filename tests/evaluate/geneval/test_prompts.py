import hashlib
import json

import pytest

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.names import CLASSES
from latent2pixel.evaluate.geneval.prompts import (
    OFFICIAL_URL,
    Clause,
    GenEvalPrompt,
    digest_of,
    load_geneval_prompts,
    prompt_of,
)

RECORD = {
    "tag": "position",
    "include": [{"class": "tv remote", "count": 1}, {"class": "cat", "count": 2, "position": ["left of", 0]}],
    "exclude": [{"class": "cat", "count": 3}],
    "prompt": "two cats left of a tv remote",
}


def test_a_record_becomes_a_prompt_and_back():
    prompt = prompt_of(RECORD, place="here")
    assert prompt == GenEvalPrompt(
        task="position",
        prompt="two cats left of a tv remote",
        include=(
            Clause(class_name="tv remote", count=1),
            Clause(class_name="cat", count=2, position=("left of", 0)),
        ),
        exclude=(Clause(class_name="cat", count=3),),
    )
    assert json.dumps(prompt.as_record()) == json.dumps(RECORD)
    colour = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "pink"}], "prompt": "a pink cat"}
    assert prompt_of(colour, place="here").as_record() == colour


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"tag": "colours"}, "tag 'colours'"),
        ({"prompt": ""}, "prompt ''"),
        ({"include": []}, "no include clause"),
        ({"include": {}}, "include {}"),
        ({"include": ["cat"]}, "'cat'"),
        ({"include": [{"class": "remote", "count": 1}]}, "class 'remote'"),
        ({"include": [{"class": "cat", "count": 0}]}, "count 0"),
        ({"include": [{"class": "cat", "count": True}]}, "count True"),
        ({"include": [{"class": "cat", "count": 1, "color": "gray"}]}, "color 'gray'"),
        ({"include": [{"class": "cat", "count": 1, "colour": "red"}]}, "['class', 'colour', 'count']"),
        ({"include": [{"class": "cat", "count": 1, "position": ["left of", 0]}]}, "position ['left of', 0]"),
        (
            {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left", 0]}]},
            "position ['left', 0]",
        ),
        (
            {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", -1]}]},
            "position ['above', -1]",
        ),
        ({"exclude": [{"class": "cat", "count": 1, "color": "red"}]}, "an exclude clause with colour or position"),
        ({"id": 3}, "['exclude', 'id', 'include', 'prompt', 'tag']"),
    ],
)
def test_what_is_not_in_the_format_is_refused(change, found):
    with pytest.raises(DataError, match=r"GenEval's format: line 7") as error:
        prompt_of({**RECORD, **change}, place="line 7")
    assert error.value.found == found


def test_a_missing_file_gives_the_command_that_fetches_it(tmp_path):
    with pytest.raises(DataError) as error:
        load_geneval_prompts(tmp_path / "geneval" / "prompts.jsonl")
    place = tmp_path / "geneval" / "evaluation_metadata.jsonl"
    assert error.value.fix == f"Run `curl -fL --create-dirs -o {place} {OFFICIAL_URL}`."
    assert "/af4902f24d3ca90ebbb446dd9891a59e0f82725f/" in OFFICIAL_URL


def test_a_file_with_the_official_name_must_be_the_official_one(tmp_path):
    line = json.dumps(RECORD) + "\n"
    own, claimed = tmp_path / "own.jsonl", tmp_path / "evaluation_metadata.jsonl"
    own.write_text(line)
    claimed.write_text(line)
    assert [prompt.as_record() for prompt in load_geneval_prompts(own)] == [RECORD]
    with pytest.raises(DataError, match="another file") as error:
        load_geneval_prompts(claimed)
    assert error.value.found == f"sha256 {hashlib.sha256(line.encode()).hexdigest()}"
    assert OFFICIAL_URL in error.value.fix


def test_the_digest_of_prompts_depends_on_content_and_order_alone():
    one, other = prompt_of(RECORD, place=""), prompt_of({**RECORD, "prompt": "cats"}, place="")
    shuffled = prompt_of(dict(reversed(RECORD.items())), place="")
    assert digest_of([one, other]) == digest_of([shuffled, other])
    assert len({digest_of(each) for each in ([one, other], [other, one], [one], [])}) == 4


def test_the_classes_are_80_and_lower_case():
    assert len(set(CLASSES)) == 80
    assert all(name == name.strip().lower() for name in CLASSES)
    assert (CLASSES[0], CLASSES[64], CLASSES[-1]) == ("person", "computer mouse", "toothbrush")
