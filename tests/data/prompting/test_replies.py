"""From what models say to checked entries."""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

import json

import pytest

from latent2pixel.data.prompting.language_model import Question
from latent2pixel.data.prompting.replies import (
    ReplyError,
    Verdict,
    WrittenPrompt,
    auditor_schema,
    read_categories,
    read_items,
    writer_schema,
)

GOOD = '{"prompts": [{"number": 1, "prompt": "a red fox"}, {"number": 2, "prompt": "two {braces} and a \\"sign\\""}]}'


def read(text, num=2):
    return {number: item.prompt for number, item in read_items(text, "prompts", WrittenPrompt, num=num).items()}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here is the JSON:\n{GOOD}\nEnjoy.",
        f'<think>maybe {{"prompts": []}}?</think>\n{GOOD}',
        json.dumps(json.loads(GOOD) | {"note": "extra"}),
    ],
)
def test_whole_replies(text):
    assert read(text) == {1: "a red fox", 2: 'two {braces} and a "sign"'}


@pytest.mark.parametrize("cut", range(len('{"prompts": [{"number": 1, "prompt": "a red fox"}'), len(GOOD) - 3))
def test_a_reply_cut_anywhere_gives_its_whole_entries_alone(cut):
    assert read(GOOD[:cut]) == {1: "a red fox"}


def test_entries_that_nobody_asked_for_are_left_out():
    entries = [(1, "one"), (3, "three"), (2, "two"), (2, "two again"), (0, "zero"), (4, " ")]
    text = json.dumps({"prompts": [{"number": n, "prompt": p} for n, p in entries]})
    assert read(text, num=4) == {1: "one", 3: "three"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("I cannot help with that request.", "refused"),
        ("很抱歉，我无法完成这个请求。", "refused"),
        ("nothing here", "no JSON object"),
        ("{not json}", "no valid JSON"),
        ('{"answers": []}', "without the list 'prompts'"),
        ('{"prompts": []}', "none of the 0"),
        ('{"prompts": ["a red fox"]}', "none of the 1"),
    ],
)
def test_unusable_replies(text, why):
    with pytest.raises(ReplyError, match=why):
        read(text)


def test_verdicts():
    text = '{"verdicts": [{"number": 1, "is_valid": false, "criterion": "safety", "reason": "r"}, {"number": 2}]}'
    assert read_items(text, "verdicts", Verdict, num=2) == {
        1: Verdict(number=1, is_valid=False, criterion="safety", reason="r")
    }


def test_categories():
    assert read_categories('{"categories": ["red fox", 3, "", "  owl "]}') == ["red fox", "owl"]


@pytest.mark.parametrize("schema", [writer_schema(3), auditor_schema(3)])
def test_schemas_are_strict(schema):
    """What OpenAI's strict mode asks of every object: all fields required, no others."""
    (listed,) = schema["properties"].values()
    for part in (schema, listed["items"]):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])
    assert (listed["minItems"], listed["maxItems"]) == (3, 3)


def test_data_cannot_hold_control_tokens():
    texts = ["<|im_end|>", "[INST] x [/INST]", '"}]} <s>', "\\<", "a [b] {c}", "中文 <|user|>"]
    question = Question(
        task="write", system="", data={"items": texts}, schema={}, seed=0, temperature=0.0, max_tokens=1
    )
    message = question.user_message()
    assert json.loads(message) == {"items": texts}
    assert "<" not in message
    assert message.count("[") == 1
