"""Records: one JSON object a line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latent2pixel.errors import DataError
from latent2pixel.io.new_folder import write_file


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; empty lines are skipped.

    Raises:
        DataError: The file cannot be read, or a line is no JSON object.
    """
    try:
        # Not splitlines(): it also splits at U+2028 and others, which JSON allows inside a string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "A file of records cannot be read",
            found=f"{path}: {error}",
            expected="a text file with one JSON object a line",
            fix="Check the path.",
        ) from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise _bad_line(path, number, str(error)) from error
        if not isinstance(record, dict):
            raise _bad_line(path, number, type(record).__name__)
        records.append(record)
    return records


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as a JSON-lines file that appears whole or not at all."""
    write_file(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _bad_line(path: Path, number: int, found: str) -> DataError:
    return DataError(
        f"Line {number} of {path} is no record",
        found=found,
        expected="one JSON object",
        fix="Correct or remove the line.",
    )
