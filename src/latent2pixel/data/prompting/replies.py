"""From a reply's text to checked objects, however much a server cared about the schema it was sent."""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import from_json

REFUSAL = re.compile(
    r"^\W*(?:i(?:['’]m| am) (?:very |so )?(?:sorry|unable)|sorry, (?:but )?i\b|i can(?:['’]?t|not)\b|i won['’]?t\b"
    r"|as an ai\b|as a language model|很抱歉|抱歉，?我|对不起，?我|我不能|我无法|作为(?:一个|一名)?(?:ai|人工智能))",
    re.IGNORECASE,
)
"""How refusals begin; the same words later in a text are no refusal."""

Filled = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ReplyError(Exception):
    """A reply that holds nothing to use; the message says why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class WrittenPrompt(_Strict):
    """One prompt of the writer."""

    number: int
    prompt: Filled


class Verdict(_Strict):
    """The auditor's opinion of one prompt.

    Source:
        L2P (arXiv 2605.12013), section 3.2: ``is_valid`` and ``reason``; the criterion is ours.
    """

    number: int
    is_valid: bool
    criterion: Literal["none", "format", "text", "safety", "copyright"] = "none"
    reason: str = ""


class NewCategory(_Strict):
    """One category of the expander."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Answer(_Strict):
    """What a model that sees says of a picture."""

    answer: Literal["yes", "no"]


Item = TypeVar("Item", WrittenPrompt, Verdict)


def list_schema(name: str, fields: dict[str, Any], num: int) -> dict[str, Any]:
    """Return the JSON schema of an object with one list of ``num`` objects, in the strict form that servers share.

    Strict means what OpenAI's structured outputs ask for: every field required, no others. Lengths of strings are left
    to our own checks, since servers differ in what they support.
    """
    item = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    listed = {"type": "array", "items": item, "minItems": num, "maxItems": num}
    return _one_field(name, listed)


def writer_schema(num: int) -> dict[str, Any]:
    """Return the schema of a writer's reply."""
    return list_schema("prompts", {"number": _number(num), "prompt": {"type": "string"}}, num)


def auditor_schema(num: int) -> dict[str, Any]:
    """Return the schema of an auditor's reply."""
    criteria = {"type": "string", "enum": ["none", "format", "text", "safety", "copyright"]}
    fields = {"number": _number(num), "is_valid": {"type": "boolean"}}
    return list_schema("verdicts", {**fields, "criterion": criteria, "reason": {"type": "string"}}, num)


def expander_schema() -> dict[str, Any]:
    """Return the schema of an expander's reply."""
    return _one_field("categories", {"type": "array", "items": {"type": "string"}})


def answer_schema() -> dict[str, Any]:
    """Return the schema of a reply to a question that is answered with yes or no."""
    return _one_field("answer", {"type": "string", "enum": ["yes", "no"]})


def read_answer(text: str) -> str:
    """Return "yes" or "no" from a reply: its JSON object, or a reply that is nothing but the word.

    Raises:
        ReplyError: It says neither.
    """
    spoken = _spoken(text)
    start = spoken.find("{")
    try:
        found = from_json(spoken[start : spoken.rfind("}") + 1]) if start >= 0 else {"answer": spoken.strip(" .!*\"'")}
        word = found.get("answer") if isinstance(found, dict) else None
        return Answer.model_validate({"answer": word.lower() if isinstance(word, str) else word}).answer
    except ValueError as error:  # ValidationError is one too
        raise ReplyError(f"neither yes nor no: {spoken[:120]}") from error


def read_items(text: str, field: str, item_class: type[Item], *, num: int) -> dict[int, Item]:
    """Return the valid items of a reply by their number, from 1 to ``num``; a number that comes twice is dropped.

    A reply that was cut off gives the items that are whole.

    Raises:
        ReplyError: There is no such item.
    """
    found: dict[int, Item] = {}
    twice = set()
    listed = _list_in(text, field)
    for raw in listed:
        try:
            item = item_class.model_validate(raw)
        except ValidationError:
            continue
        if item.number in found:
            twice.add(item.number)
        elif 1 <= item.number <= num:
            found[item.number] = item
    result = {number: item for number, item in found.items() if number not in twice}
    if not result:
        raise ReplyError(f"none of the {len(listed)} entries in {field!r} is one that was asked for")
    return result


def read_categories(text: str) -> list[str]:
    """Return the categories in a reply.

    Raises:
        ReplyError: There are none.
    """
    names = []
    for raw in _list_in(text, "categories"):
        try:
            names.append(NewCategory.model_validate({"name": raw}).name)
        except ValidationError:
            continue
    if not names:
        raise ReplyError("no text in 'categories'")
    return names


def _number(num: int) -> dict[str, Any]:
    # An enumeration: constrained decoding by outlines does not keep to "minimum" and "maximum".
    return {"type": "integer", "enum": list(range(1, num + 1))}


def _one_field(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


def _list_in(text: str, field: str) -> list[Any]:
    """Return the list under a field of the first JSON object in a text.

    Some models put a code fence or a greeting around it.
    """
    spoken = _spoken(text)
    start = spoken.find("{")
    if start < 0:
        raise ReplyError(f"no JSON object in it: {spoken[:120]}")
    end = spoken.rfind("}") + 1
    # Of a reply that was cut off, the whole entries are kept.
    for candidate, is_partial in ((spoken[start:end], False), (spoken[start:], True)):
        try:
            parsed = from_json(candidate, allow_partial=is_partial)
        except ValueError:
            continue
        listed = parsed.get(field) if isinstance(parsed, dict) else None
        if not isinstance(listed, list):
            raise ReplyError(f"a JSON object without the list {field!r}")
        return listed
    raise ReplyError(f"no valid JSON: {spoken[start : start + 120]}")


def _spoken(text: str) -> str:
    """Return a reply without the thoughts that thinking models put before it.

    Raises:
        ReplyError: It is empty, or a refusal.
    """
    spoken = text.rsplit("</think>", 1)[-1].strip()
    if REFUSAL.match(spoken):
        raise ReplyError(f"the model refused: {spoken[:120]}")
    if not spoken:
        raise ReplyError("an empty reply")
    return spoken
