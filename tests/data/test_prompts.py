"""Prompt records on disk."""

import json

import pytest

from latent2pixel.data.prompts import Prompt, load_prompts, read_prompt_lines, save_prompts
from latent2pixel.errors import DataError

RECORD = {"id": "0", "prompt": "a red fox", "major_class": "nature", "sub_class": "animals"}


def test_round_trip(tmp_path):
    prompts = [Prompt(**RECORD), Prompt(**RECORD | {"id": "1", "prompt": 'a sign that says "größe\u2028红"'})]
    save_prompts(tmp_path / "p.jsonl", prompts)
    assert load_prompts(tmp_path / "p.jsonl") == prompts


def test_fields_that_are_optional_or_unknown(tmp_path):
    told = {"category": "red fox", "kind": "simple", "language": "en"}
    records = [RECORD, RECORD | told | {"id": "1", "round": 2, "score": None}, RECORD | {"id": "2", "kind": 7}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    plain, full, odd = load_prompts(tmp_path / "p.jsonl")
    assert (plain.category, plain.kind, plain.language) == ("", "", "")
    assert full == Prompt(**RECORD | told | {"id": "1"})
    assert odd.kind == ""


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([{key: value for key, value in RECORD.items() if key != "prompt"}], "no text in prompt"),
        ([RECORD | {"sub_class": ""}], "no text in sub_class"),
        ([RECORD | {"id": 3}], "no text in id"),
        ([RECORD, RECORD], "a second id '0'"),
        ([], "without a record"),
    ],
)
def test_unusable_prompts(tmp_path, records, text):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError) as error:
        load_prompts(tmp_path / "p.jsonl")
    assert text in error.value.found


def test_lines_of_text_are_prompts(tmp_path):
    (tmp_path / "a.txt").write_text("a red circle\n\n  zwei blaue Quadrate\u2028nebeneinander \n", encoding="utf-8")
    assert read_prompt_lines(tmp_path / "a.txt") == ["a red circle", "zwei blaue Quadrate\u2028nebeneinander"]


@pytest.mark.parametrize(("content", "problem"), [(b"\n \n", "no prompts"), (b"\xff\xfe\x00", "cannot be read")])
def test_files_without_lines_of_text(tmp_path, content, problem):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_prompt_lines(tmp_path / "a.txt")
