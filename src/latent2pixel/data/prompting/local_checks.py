"""What can be said against a prompt without a language model: cheap, and before anything is paid for.

Builds on the rules of ``data/judge.py``, which hold for any prompt. Those here need to know what was asked for.
"""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

import re
from dataclasses import dataclass

from latent2pixel.data.judge import HAN, reason_against
from latent2pixel.data.prompting.plan import Place
from latent2pixel.data.prompting.replies import REFUSAL
from latent2pixel.data.prompting.taxonomy import Text


@dataclass(frozen=True, kw_only=True)
class Objection:
    """Why a prompt is rejected."""

    stage: str
    """One of "schema", "format", "text", "safety", "copyright", "duplicate", "near_duplicate" and "judge"."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Length:
    """Characters of one type of prompt in one language."""

    target: tuple[int, int]
    """What the writer is asked for."""
    limit: tuple[int, int]
    """What is accepted: writers count badly, and a prompt half as long or twice as long is still one."""


LENGTHS = {
    # The paper's lengths peak at 200 to 350 characters; a simple one is a sentence.
    ("detailed", "en"): Length(target=(200, 350), limit=(120, 700)),
    ("simple", "en"): Length(target=(40, 120), limit=(15, 240)),
    # A Chinese character says about as much as three Latin letters.
    ("detailed", "zh"): Length(target=(70, 120), limit=(40, 240)),
    ("simple", "zh"): Length(target=(14, 40), limit=(6, 80)),
}
STAGES = {"format": "format", "text rendering": "text", "safety": "safety", "copyright": "copyright"}
"""How the judge's reasons begin, and the stage that they belong to."""
OPENER_WORDS = 3
"""Words that make an opening. "A small red" is one picture's beginning, "A small" is many's."""
OPENER_CHARACTERS = 4
"""The same in Chinese."""
QUOTED = re.compile(r'"([^"]*)"')
HAN_LETTER = re.compile(f"[{HAN}]")
LATIN_LETTER = re.compile(r"[A-Za-zÀ-ɏ]")
MIN_HAN_SHARE = 0.6
"""Of the letters outside quotes of a Chinese prompt: names and units may be Latin."""
MAX_HAN_SHARE = 0.1
"""Of those of an English one: a dish or a place may be written in its own script."""
MIN_SENTENCES = 2
"""Of a detailed prompt; it is asked for three to five."""
CURLY = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "＂": '"'})
SENTENCE_END = re.compile(r"[.!?。！？]+[\"'”）)]*(?:\s|$|(?=[^\s.\d]))")


def cleaned(text: str) -> str:
    """Return a prompt on one line, with straight double quotes for typographic ones."""
    return " ".join(text.translate(CURLY).split())


def objection_to(text: str, place: Place, *, check_lengths: bool) -> Objection | None:
    """Return why a prompt does not fill its place, or None for one that does.

    Args:
        text: The prompt, cleaned.
        place: What was asked for.
        check_lengths: Whether its length and number of sentences count.
    """
    # In quotes it is text in the picture.
    if not text.startswith('"') and REFUSAL.match(text):
        return Objection(stage="format", reason="a refusal instead of a prompt")
    if reason := reason_against(text):
        start, _, rest = reason.partition(": ")
        return Objection(stage=STAGES[start], reason=rest)
    if check_lengths and (reason := _against_length(text, place)):
        return Objection(stage="format", reason=reason)
    if reason := _against_script(text, place.language):
        return Objection(stage="format", reason=reason)
    if reason := _against_quoted(text, place.sub_class.text):
        return Objection(stage="text", reason=reason)
    return None


def opener(text: str, language: str) -> str:
    """Return how a prompt begins, in lower case: two with the same opener begin alike."""
    if language == "zh":
        return "".join(re.findall(r"\w", text))[:OPENER_CHARACTERS].lower()
    return " ".join(re.findall(r"\w+", text.lower())[:OPENER_WORDS])


def _against_length(text: str, place: Place) -> str | None:
    least, most = LENGTHS[place.kind, place.language].limit
    if not least <= len(text) <= most:
        return f"{len(text)} characters, not {least} to {most} as a {place.kind} prompt has"
    num_sentences = len(SENTENCE_END.findall(QUOTED.sub('""', text)))
    if place.kind == "detailed" and num_sentences < MIN_SENTENCES:
        return f"{num_sentences} complete sentences, fewer than the {MIN_SENTENCES} that a detailed prompt has at least"
    return None


def _against_script(text: str, language: str) -> str | None:
    outside = QUOTED.sub("", text)
    num_han, num_latin = len(HAN_LETTER.findall(outside)), len(LATIN_LETTER.findall(outside))
    share = num_han / max(num_han + num_latin, 1)
    if language == "zh" and share < MIN_HAN_SHARE:
        return f"{share:.0%} Chinese letters in a prompt that should be Chinese"
    if language == "en" and share > MAX_HAN_SHARE:
        return f"{share:.0%} Chinese letters in a prompt that should be English"
    return None


def _against_quoted(text: str, wanted: Text) -> str | None:
    if wanted == "allowed":
        return None
    quoted = " ".join(QUOTED.findall(text))
    if not quoted.strip():
        return "no text in double quotes, though the picture is about text"
    if wanted == "han" and not HAN_LETTER.search(quoted):
        return f"the text {quoted[:40]!r} is not Chinese"
    if wanted == "latin" and not LATIN_LETTER.search(quoted):
        return f"the text {quoted[:40]!r} has no Latin letters"
    return None
