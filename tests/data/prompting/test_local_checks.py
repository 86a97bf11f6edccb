"""What is said against a prompt before anything is paid for; what passes matters as much."""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

import pytest

from latent2pixel.data.prompting.local_checks import cleaned, objection_to, opener
from latent2pixel.data.prompting.plan import Place
from latent2pixel.data.prompting.taxonomy import SubClass

EN = (
    "An old lighthouse stands on a narrow spit of black rock, seen from a low boat in heavy rain. Waves break against "
    "its foot and throw white spray over the railing."
)
ZH = (
    "黄昏的雪林里，一只红狐停在小路中央，耳朵微微竖起。两旁是光秃秃的白桦，"
    "树干间透出一点橙色的光。远处的山脊渐渐隐入薄雾。"
)


def against(text, *, kind="detailed", language="en", wanted="allowed", check_lengths=True):
    sub = SubClass(name="s", text=wanted)
    place = Place(number=0, major_class="m", sub_class=sub, ordinal=0, category="c", kind=kind, language=language)
    found = objection_to(cleaned(text), place, check_lengths=check_lengths)
    return found and (found.stage, found.reason)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (EN, {}),
        (ZH, {"language": "zh"}),
        ("A red fox sleeps under a fern.", {"kind": "simple"}),
        ("雪地里睡着一只红狐。", {"kind": "simple", "language": "zh"}),
        (EN + " A board says “Sorry, we are closed”.", {"wanted": "latin"}),
        (EN + ' A red sign reads "老街面馆".', {"wanted": "han"}),
        (ZH + '木牌上写着"老街面馆"。', {"language": "zh", "wanted": "han"}),
        ("A 3.5 m boat on 2.0 m waves.", {"kind": "simple"}),
        ("two circles", {"check_lengths": False}),
        ('"Sorry, I am closed" is written on a shop door.', {"kind": "simple"}),
    ],
)
def test_passes(text, options):
    assert against(text, **options) is None


@pytest.mark.parametrize(
    ("text", "options", "stage", "reason"),
    [
        (EN[:100], {}, "format", "100 characters"),
        (EN * 6, {}, "format", "characters"),
        (EN[:94].replace(".", "") + " and more of it, on and on and on", {}, "format", "0 complete sentences"),
        ("A red fox sleeps under a fern." * 9, {"kind": "simple"}, "format", "characters"),
        (EN, {"language": "zh"}, "format", "0% Chinese letters"),
        (EN + ZH[:30], {}, "format", "Chinese letters in a prompt that should be English"),
        (EN, {"wanted": "any"}, "text", "no text in double quotes"),
        (EN + ' A sign reads "Open".', {"wanted": "han"}, "text", "is not Chinese"),
        (EN + ' A sign reads "老街".', {"wanted": "latin"}, "text", "no Latin letters"),
        (EN + ' A sign reads "Open.', {}, "text", "without its partner"),
        (ZH + "木牌上写着老街面馆。", {"language": "zh"}, "text", "without double quotes"),
        ("I'm sorry, but I can't write this prompt. Please choose another subject.", {}, "format", "a refusal"),
        ("抱歉，我无法生成这样的内容。", {"kind": "simple", "language": "zh"}, "format", "a refusal"),
        (EN + " A naked man swims.", {}, "safety", "'naked'"),
        (EN + " Batman waits.", {}, "copyright", "'batman'"),
        (ZH + "画面血腥。", {"language": "zh"}, "safety", "'血腥'"),
        (ZH + "墙上有米老鼠。", {"language": "zh"}, "copyright", "'米老鼠'"),
        ("红狐，雪地，黄昏，白桦，远山，薄雾，光线", {"language": "zh", "kind": "simple"}, "format", "a list of tags"),
    ],
)
def test_rejected(text, options, stage, reason):
    found = against(text, **options)
    assert found
    assert found[0] == stage
    assert reason in found[1]


def test_cleaned():
    assert cleaned(" A  sign\nsays “hi”. ") == 'A sign says "hi".'


def test_openers():
    assert opener("A red fox, asleep.", "en") == opener("a RED fox waits", "en") != opener("A red cat", "en")
    assert opener("黄昏的雪林里", "zh") == opener("黄昏的雪，很冷", "zh") != opener("清晨的雪林", "zh")
