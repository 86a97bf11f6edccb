"""Prompts with what their pictures must show, in GenEval's format, and the official set's file."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.names import CLASSES, COLOURS, RELATIONS, TASKS
from latent2pixel.io.records import read_records

OFFICIAL_NAME = "evaluation_metadata.jsonl"
"""A file of this name claims to be the official set."""
OFFICIAL_URL = (
    "https://raw.githubusercontent.com/djghosh13/geneval/af4902f24d3ca90ebbb446dd9891a59e0f82725f/prompts/"
    + OFFICIAL_NAME
)
OFFICIAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of that file at that commit, 553 lines; measured."""
OFFICIAL_DIGEST = "6e41e876a27de27e7d88e719f3f6846909e5195c1e80bb569a3e0da84da7336a"
"""``digest_of`` its prompts: by it a folder of pictures is known as the official set's."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """Objects of one class that a picture must show, or must not."""

    class_name: str
    """One of ``CLASSES``."""
    count: int
    """As many at least; in an "exclude" clause, too many from here on."""
    colour: str | None = None
    """One of ``COLOURS`` that the objects must have."""
    position: tuple[str, int] | None = None
    """Relation to the objects of an earlier "include" clause, and that clause's index."""


@dataclass(frozen=True, kw_only=True)
class GenEvalPrompt:
    """One prompt and its clauses."""

    task: str
    """One of ``TASKS``."""
    prompt: str
    include: tuple[Clause, ...]
    """All of them must hold."""
    exclude: tuple[Clause, ...] = ()
    """None of them may hold."""

    def as_record(self) -> dict[str, Any]:
        """Return the prompt as a line of GenEval's files has it."""
        record: dict[str, Any] = {"tag": self.task, "include": [_clause_record(clause) for clause in self.include]}
        if self.exclude:
            record["exclude"] = [_clause_record(clause) for clause in self.exclude]
        return {**record, "prompt": self.prompt}


def load_geneval_prompts(path: Path) -> list[GenEvalPrompt]:
    """Load a file of prompts in GenEval's format: the official one, or another under another name.

    Raises:
        DataError: The file is missing, a line is no prompt, or a file with the official name is not the official one.
    """
    if not path.is_file():
        raise DataError(
            "The file of GenEval's prompts is missing",
            found=f"no file {path}",
            expected=f"{OFFICIAL_NAME} of github.com/djghosh13/geneval (MIT licence)",
            fix=f"Run `curl -fL --create-dirs -o {path.with_name(OFFICIAL_NAME)} {OFFICIAL_URL}`.",
        )
    if path.name == OFFICIAL_NAME:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != OFFICIAL_SHA256:
            raise DataError(
                f"{path} has the name of GenEval's official prompts, but is another file",
                found=f"sha256 {digest}",
                expected=f"sha256 {OFFICIAL_SHA256}",
                fix=f"Give your own prompts another name, or run `curl -fL -o {path} {OFFICIAL_URL}`.",
            )
    return [prompt_of(record, place=f"{path}, record {number}") for number, record in enumerate(read_records(path), 1)]


def prompt_of(record: Mapping[str, Any], *, place: str) -> GenEvalPrompt:
    """Return the prompt that a record describes.

    Args:
        record: With "tag", "prompt", "include" and perhaps "exclude".
        place: Where it stands, for the error.

    Raises:
        DataError: A key or value is none of GenEval's.
    """
    _require(
        set(record) <= {"tag", "prompt", "include", "exclude"}, place, sorted(record), "no other key than GenEval's"
    )
    task, prompt = record.get("tag"), record.get("prompt")
    _require(task in TASKS, place, f"tag {task!r}", f"one of {', '.join(TASKS)}")
    _require(isinstance(prompt, str) and bool(prompt), place, f"prompt {prompt!r}", "a text")
    groups = {}
    for name in ("include", "exclude"):
        clauses = record.get(name, [])
        _require(isinstance(clauses, list), place, f"{name} {clauses!r}", "a list of clauses")
        groups[name] = tuple(_clause_of(clause, index, place=place) for index, clause in enumerate(clauses))
    _require(bool(groups["include"]), place, "no include clause", "one at least: any picture would be right")
    plain = all(clause.colour is None and clause.position is None for clause in groups["exclude"])
    _require(plain, place, "an exclude clause with colour or position", "class and count: the program reads no more")
    return GenEvalPrompt(task=str(task), prompt=str(prompt), **groups)


def digest_of(prompts: Iterable[GenEvalPrompt]) -> str:
    """Return a SHA-256 of prompts in their order, whatever file they came from."""
    lines = (json.dumps(prompt.as_record(), sort_keys=True) + "\n" for prompt in prompts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _clause_of(record: Any, index: int, *, place: str) -> Clause:
    _require(isinstance(record, dict), place, repr(record), "a clause")
    known = {"class", "count", "color", "position"}
    _require(set(record) <= known, place, sorted(record), f"no other key than {', '.join(sorted(known))}")
    class_name, count, colour = record.get("class"), record.get("count"), record.get("color")
    _require(class_name in CLASSES, place, f"class {class_name!r}", "one of GenEval's 80 classes, such as 'tv remote'")
    _require(type(count) is int and count > 0, place, f"count {count!r}", "1 or more")
    _require(colour is None or colour in COLOURS, place, f"color {colour!r}", f"one of {', '.join(COLOURS)}")
    position = _position_of(record.get("position"), index, place=place)
    return Clause(class_name=class_name, count=count, colour=colour, position=position)


def _position_of(value: Any, index: int, *, place: str) -> tuple[str, int] | None:
    if value is None:
        return None
    expected = f"one of {', '.join(RELATIONS)}, and the index of an earlier clause"
    whole = isinstance(value, Sequence) and len(value) == 2 and value[0] in RELATIONS and type(value[1]) is int
    _require(whole and 0 <= value[1] < index, place, f"position {value!r}", expected)
    return str(value[0]), value[1]


def _clause_record(clause: Clause) -> dict[str, Any]:
    record: dict[str, Any] = {"class": clause.class_name, "count": clause.count}
    if clause.colour is not None:
        record["color"] = clause.colour
    if clause.position is not None:
        record["position"] = list(clause.position)
    return record


def _require(holds: bool, place: str, found: object, expected: str) -> None:
    if not holds:
        raise DataError(
            f"A prompt is not in GenEval's format: {place}",
            found=found,
            expected=expected,
            fix="Correct the record; `l2p-six-tasks` of this package shows the format.",
        )
