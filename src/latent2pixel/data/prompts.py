"""Prompts as records: id, classes and text."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from latent2pixel.errors import DataError
from latent2pixel.io.records import read_records, write_records

OPTIONAL = ("category", "kind", "language")
"""Fields that older files and other people's files may lack."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt.

    Source:
        L2P (arXiv 2605.12013), section 3.2: records of id, major class, sub-class and prompt.
    """

    id: str
    """Unique in its file; part of every image's seed."""
    prompt: str
    """The text that the source model is given."""
    major_class: str
    sub_class: str
    category: str = ""
    """Fine category, such as "red fox"; empty where nobody told."""
    kind: str = ""
    """"simple" or "detailed"; empty where nobody told."""
    language: str = ""
    """"en" or "zh"; empty where nobody told."""


def load_prompts(path: Path) -> list[Prompt]:
    """Load prompts from a JSON-lines file; fields that a prompt does not have are ignored.

    Raises:
        DataError: The file cannot be read, a field is missing, or an id comes twice.
    """
    prompts = []
    seen: set[str] = set()
    for number, record in enumerate(read_records(path), start=1):
        fields = {key: record.get(key) for key in ("id", "prompt", "major_class", "sub_class")}
        wrong = [key for key, value in fields.items() if not isinstance(value, str) or not value]
        if wrong or fields["id"] in seen:
            raise DataError(
                f"Record {number} of {path} is no prompt",
                found=f"{'no text in ' + ', '.join(wrong) if wrong else 'a second id ' + repr(fields['id'])}",
                expected="text in id, prompt, major_class and sub_class; every id once",
                fix="Correct or remove the record.",
            )
        told = {key: value for key in OPTIONAL if isinstance(value := record.get(key), str)}
        prompt = Prompt(**fields, **told)  # type: ignore[arg-type]
        seen.add(prompt.id)
        prompts.append(prompt)
    if not prompts:
        raise DataError(
            "There are no prompts",
            found=f"{path} without a record",
            expected="one JSON object with id, prompt, major_class and sub_class a line",
            fix="Write or generate prompts first.",
        )
    return prompts


def read_prompt_lines(path: Path) -> list[str]:
    """Return the prompts of a text file, one a line; empty lines are skipped.

    Raises:
        DataError: The file cannot be read, or holds none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "A file of prompts cannot be read",
            found=f"{path}: {error}",
            expected="a text file with one prompt a line, or JSON lines in a file .jsonl",
            fix="Check the path.",
        ) from error
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise DataError(
            "There are no prompts",
            found=f"{path} without a line",
            expected="one prompt a line",
            fix="Write some.",
        )
    return prompts


def save_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Save prompts as a JSON-lines file."""
    write_records(path, (asdict(prompt) for prompt in prompts))
