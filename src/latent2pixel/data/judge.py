"""The prompt filter: a strict auditor by rules, for the paper's criteria that rules can decide."""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

import re
from collections.abc import Iterable
from dataclasses import dataclass

from latent2pixel.data.prompts import Prompt

MAX_CHARACTERS = 1200
"""The paper's lengths peak at 200 to 350 characters; four times that is a page, not a prompt."""
MAX_COMMA_SHARE = 0.25
"""Commas per word from which a text is a tag list; fluent English has about one in ten words."""
MIN_TAG_COMMAS = 4
"""A short enumeration such as "a cat, a dog and a bird" is no tag list."""
QUALITY_TAGS = ("masterpiece", "best quality", "8k", "4k", "hdr", "trending on artstation", "ultra detailed", "uhd")
"""Words of tag lists that describe no content."""
UNSAFE = ("nude", "naked", "nsfw", "porn", "sexual", "gore", "beheaded", "suicide", "swastika", "child abuse")
UNSAFE_ZH = ("裸体", "裸露", "色情", "性感暴露", "血腥", "自杀", "斩首", "纳粹", "虐童")
"""Least list for safety; a language model judges better, this one needs none."""
PROTECTED = (
    "mickey mouse",
    "pikachu",
    "spider-man",
    "batman",
    "hello kitty",
    "coca-cola",
    "nike",
    "mcdonald's",
    "disney",
)
"""Least list of brands and characters, for the same reason."""
PROTECTED_ZH = ("米老鼠", "皮卡丘", "蜘蛛侠", "蝙蝠侠", "可口可乐", "耐克", "麦当劳", "迪士尼", "哆啦a梦")
HAN = "\u3400-\u9fff"
"""Chinese characters, as a range of a regular expression."""
WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+")
"""A word, or one Chinese character, which is about as much: Chinese writes no spaces."""
DISPLAYING = re.compile(
    r"\b(?:text|words?|sign|caption|title|label|slogan)\s+(?:(?:that|which)\s+)?(?:reads?|says?|saying|reading)\b"
    r"|写着|写有|印着|印有|刻着|题着|标题是|标题为",
    re.IGNORECASE,
)
"""Phrases that announce text in the picture, which must then stand in double quotes."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What the auditor kept and refused."""

    kept: list[Prompt]
    rejected: list[tuple[Prompt, str]]
    """Prompt and reason."""


def audit(prompts: Iterable[Prompt]) -> Audit:
    """Keep the valid prompts and give a reason for every other.

    Source:
        L2P (arXiv 2605.12013), section 3.2, "automated filtering": format and grammar, text-rendering syntax, safety,
        copyright. Duplicates are ours.
    """
    kept: list[Prompt] = []
    rejected: list[tuple[Prompt, str]] = []
    seen: dict[str, str] = {}
    for prompt in prompts:
        key = re.sub(r"[^\w]+", " ", prompt.prompt.lower()).strip()
        reason = reason_against(prompt.prompt)
        if reason is None and key in seen:
            reason = f"duplicate of {seen[key]}"
        if reason is None:
            seen[key] = prompt.id
            kept.append(prompt)
        else:
            rejected.append((prompt, reason))
    return Audit(kept=kept, rejected=rejected)


def reason_against(text: str) -> str | None:
    """Return why a prompt is refused, or None for a valid one."""
    words = WORD.findall(text)
    lowered = _padded_words(text)
    commas = sum(map(text.count, ",，、"))
    if len(words) < 2:
        return "format: fewer than two words"
    if len(text) > MAX_CHARACTERS:
        return f"format: {len(text)} characters, more than {MAX_CHARACTERS}"
    if commas >= MIN_TAG_COMMAS and commas / len(words) > MAX_COMMA_SHARE:
        return "format: a list of tags instead of a sentence"
    if tag := _first_found(QUALITY_TAGS, lowered):
        return f"format: the quality tag {tag!r}"
    if text.count('"') % 2:
        return "text rendering: a double quote without its partner"
    if DISPLAYING.search(text) and '"' not in text:
        return "text rendering: displayed text without double quotes"
    if word := _first_found(UNSAFE, lowered) or _first_within(UNSAFE_ZH, lowered):
        return f"safety: {word!r}"
    if name := _first_found(PROTECTED, lowered) or _first_within(PROTECTED_ZH, lowered):
        return f"copyright: {name!r}"
    return None


def _first_found(phrases: Iterable[str], lowered: str) -> str | None:
    for phrase in phrases:
        if _padded_words(phrase) in lowered:
            return phrase
    return None


def _first_within(phrases: Iterable[str], lowered: str) -> str | None:
    """Return the first phrase anywhere in a text: Chinese words have no edges to look for."""
    return next((phrase for phrase in phrases if phrase in lowered), None)


def _padded_words(text: str) -> str:
    """Return the lower-case words between single spaces, one at each end: whole words can be found in it."""
    return " " + " ".join(re.findall(r"[\w-]+", text.lower())) + " "
