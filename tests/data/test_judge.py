"""The rule-based auditor: what it keeps matters as much as what it rejects."""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

import pytest

from latent2pixel.data.judge import MAX_CHARACTERS, audit, reason_against
from latent2pixel.data.prompts import Prompt

DETAILED = (
    "An old lighthouse stands on a narrow spit of black rock, seen from a low boat in heavy rain. Waves break against "
    "its foot and throw white spray over the railing. A single warm lamp burns behind the glass at the top."
)


@pytest.mark.parametrize(
    "text",
    [
        "a red circle to the left of a blue square",
        "two circles",
        DETAILED,
        "a cat, a dog and a bird",
        'a wooden sign that reads "OPEN" above a door',
        'a poster with the title "Night Train" and the words "at nine"',
        "a man who says hello to a child",
        "a bat, man made of stone",
        "a denuded hill under a gray sky",
        "雪地里睡着一只红狐",
        '木门上方挂着一块牌子，写着"老街面馆"',
    ],
)
def test_valid(text):
    assert reason_against(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("circle", "format: fewer than two words"),
        (" \n ", "format: fewer than two words"),
        ("a " * MAX_CHARACTERS, "format: "),
        ("cat, dog, tree, sky, sun, sea", "format: a list of tags"),
        ("a castle on a hill, masterpiece", "format: the quality tag 'masterpiece'"),
        ('a sign that reads "OPEN', "text rendering: a double quote without"),
        ("a sign that reads OPEN", "text rendering: displayed text without"),
        ("a shop sign saying OPEN", "text rendering: displayed text without"),
        ("狐", "format: fewer than two words"),
        ("红狐，雪地，黄昏，白桦，远山", "format: a list of tags"),
        ("木牌上写着老街面馆", "text rendering: displayed text without"),
        ("画面血腥的战场", "safety: '血腥'"),
        ("米老鼠在雨中跳舞", "copyright: '米老鼠'"),
        ("a naked man on a beach", "safety: 'naked'"),
        ("a Nike's shoe on a table", "copyright: 'nike'"),
        ("Mickey  Mouse dances in the rain", "copyright: 'mickey mouse'"),
        ("a McDonald's at night", 'copyright: "mcdonald\'s"'),
    ],
)
def test_rejected(text, reason):
    assert (reason_against(text) or "").startswith(reason)


def prompts(*texts):
    return [Prompt(id=str(index), prompt=text, major_class="m", sub_class="s") for index, text in enumerate(texts)]


def test_duplicates_differ_in_case_and_punctuation_only():
    judged = audit(prompts("Two green circles.", "two green  circles", "two green squares", "TWO GREEN-CIRCLES!"))
    assert [prompt.id for prompt in judged.kept] == ["0", "2"]
    assert [(prompt.id, reason) for prompt, reason in judged.rejected] == [
        ("1", "duplicate of 0"),
        ("3", "duplicate of 0"),
    ]


def test_rejected_prompt_does_not_shadow_a_valid_one():
    judged = audit(prompts('a sign "x', "a sign x"))
    assert [prompt.id for prompt in judged.kept] == ["1"]
