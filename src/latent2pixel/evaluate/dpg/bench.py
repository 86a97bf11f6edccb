"""The prompts and questions of DPG-Bench: read from the user's copy, and known by their content."""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latent2pixel.errors import DataError

OFFICIAL_NAME = "dpg_bench.csv"
"""A file of this name claims to be the official set."""
PROMPTS = "prompts"
"""Folder beside it: ``ITEM.txt`` holds the prompt of an item, all of the file."""
COMMIT = "3c228f1dc6c4d3cad0a47493816151a419f14db3"
OFFICIAL_URL = f"https://codeload.github.com/TencentQQGYLab/ELLA/tar.gz/{COMMIT}"
"""Of the whole repository: the prompts are 1065 files."""
OFFICIAL_GIT_ID = "98457fc9901943f51ff9a30367250fc292533bed"
"""Of the questions at that commit, as git's tree names them: ``git rev-parse COMMIT:dpg_bench/dpg_bench.csv``. A second
repository, github.com/End2End-Diffusion/diffusionbench-evals, has a file of the same id."""
OFFICIAL_PROMPTS_SHA256 = "090f744aaa64391b0b6c7e80b9ff4148bbd78da00e884770005df2245cd0b159"
"""``digest_of_prompts`` of the 1065 files at that commit; measured."""
COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
"""Of the official table that are read; it has others."""
WHOLE_NUMBER = re.compile(r"\d+(\.0)?")
"""A column that a table program took for fractions has ".0" behind its numbers."""


@dataclass(frozen=True, kw_only=True)
class DPGQuestion:
    """One row of the table."""

    item: str
    """Name of the prompt, which is the name of its picture without ending."""
    number: int
    """Of the question within its item, from 1."""
    parents: tuple[int, ...]
    """Questions that must be answered "yes" before this one can count; 0 stands for none."""
    category: str
    """Such as "attribute - color"; what stands before " - " is its group."""
    text: str
    """What the judge is asked."""


@dataclass(frozen=True, kw_only=True)
class DPGBench:
    """A set of prompts with their questions."""

    rows: tuple[DPGQuestion, ...]
    """In the order of the table, on which the official score depends."""
    prompts: Mapping[str, str]
    """From the name of an item to its prompt, by name."""
    is_official: bool
    """Whether both are DPG-Bench's own."""


def load_dpg(path: Path) -> DPGBench:
    """Load a table of questions and the folder ``prompts`` beside it.

    Args:
        path: The official ``dpg_bench.csv``, or a table with its columns under another name.

    Raises:
        DataError: A file is missing or cannot be read, or what has the official name is not the official set.
    """
    if not path.is_file() or not (path.parent / PROMPTS).is_dir():
        raise DataError(
            "DPG-Bench is missing",
            found=f"no {path if not path.is_file() else path.parent / PROMPTS}",
            expected=f"{OFFICIAL_NAME} and the folder {PROMPTS} of github.com/TencentQQGYLab/ELLA (Apache-2.0)",
            fix=_download(path),
        )
    content, prompts = path.read_bytes(), _read_prompts(path.parent / PROMPTS)
    ids = (_git_id(content), digest_of_prompts(prompts))
    is_official = ids == (OFFICIAL_GIT_ID, OFFICIAL_PROMPTS_SHA256)
    if path.name == OFFICIAL_NAME and not is_official:
        raise DataError(
            f"{path} has the name of DPG-Bench's questions, but it or its prompts are others",
            found=f"git id {ids[0]}, sha256 of {len(prompts)} prompts {ids[1]}",
            expected=f"git id {OFFICIAL_GIT_ID}, sha256 of 1065 prompts {OFFICIAL_PROMPTS_SHA256}",
            fix=f"Give your own table another name. For the official one, {_download(path, again=True)}",
        )
    return DPGBench(rows=tuple(_read_rows(path, content)), prompts=prompts, is_official=is_official)


def official_items(rows: Iterable[DPGQuestion]) -> dict[str, dict[int, DPGQuestion]]:
    """Return the questions of every item as the official program reads them, by number.

    It skips the first row of the table, takes only the last of several blocks of an item, and of questions with one
    number the last, in the first one's place.
    """
    items: dict[str, dict[int, DPGQuestion]] = {}
    before = None
    for row in list(rows)[1:]:
        if row.item != before:
            items[row.item] = {}
        items[row.item][row.number] = row
        before = row.item
    return items


def corrected_items(rows: Iterable[DPGQuestion]) -> dict[str, dict[int, DPGQuestion]]:
    """Return all questions of every item by number; of those with one number the last, as nobody can know which."""
    items: dict[str, dict[int, DPGQuestion]] = {}
    for row in rows:
        items.setdefault(row.item, {})[row.number] = row
    return items


def oddities(bench: DPGBench) -> tuple[str, ...]:
    """Return in words what is odd about a set: none of it is refused, and none of it should pass unseen."""
    items, seen, found = corrected_items(bench.rows), set(), []
    for row in bench.rows:
        if (row.item, row.number) in seen:
            found.append(f"{row.item}: several questions {row.number}, the last one counts")
        seen.add((row.item, row.number))
    for item, questions in items.items():
        for row in questions.values():
            gone = [str(parent) for parent in row.parents if parent and parent not in questions]
            if gone:
                found.append(f"{item}: question {row.number} depends on {', '.join(gone)}, which is not there")
    found += [f"{item}: questions, but no prompt" for item in items if item not in bench.prompts]
    found += [f"{item}: a prompt, but no questions" for item in bench.prompts if item not in items]
    return tuple(sorted(found))


def digest_of_prompts(prompts: Mapping[str, str]) -> str:
    """Return a SHA-256 of prompts with their items, whatever their order."""
    return hashlib.sha256(
        "".join(f"{item}.txt\0{prompts[item]}\0" for item in sorted(prompts, key=lambda item: f"{item}.txt")).encode()
    ).hexdigest()


def _git_id(content: bytes) -> str:
    """Return what git calls a file of that content; it is SHA-1, against damage and mistakes, not against attackers."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _read_prompts(folder: Path) -> dict[str, str]:
    try:
        # Bytes, not text mode: the two prompts of the official set with white space at an end keep it.
        prompts = {path.stem: path.read_bytes().decode() for path in sorted(folder.glob("*.txt"))}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "A prompt cannot be read",
            found=f"{folder}: {error}",
            expected="text files in UTF-8",
            fix="Correct or remove the file.",
        ) from error
    if not prompts:
        raise DataError(
            "There are no prompts",
            found=f"no *.txt in {folder}",
            expected="one file a prompt, named for its item",
            fix="Copy the prompts there, or download DPG-Bench again.",
        )
    return prompts


def _read_rows(path: Path, content: bytes) -> list[DPGQuestion]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad_table(path, str(error), "text in UTF-8") from error
    table = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise _bad_table(path, f"no column {', '.join(missing)}", f"the columns {', '.join(COLUMNS)}")
    rows = [_row(record, f"{path}, line {table.line_num}") for record in table]
    if not rows:
        raise _bad_table(path, "no row", "one row a question")
    return rows


def _row(record: Mapping[str | None, str | None], place: str) -> DPGQuestion:
    item, number, parents, tuple_, text = (record.get(name) or "" for name in COLUMNS)
    if None in record or not item or not text.strip():
        raise _bad_table(place, str(dict(record)), "an item, a question and no more fields than columns")
    if not WHOLE_NUMBER.fullmatch(number):
        raise _bad_table(place, f"proposition_id {number!r}", "a whole number")
    numbers = [parent.strip() for parent in parents.split(",")]
    if not all(WHOLE_NUMBER.fullmatch(parent) for parent in numbers):
        raise _bad_table(place, f"dependency {parents!r}", "numbers of questions with commas between them, or 0")
    return DPGQuestion(
        item=item,
        number=int(float(number)),
        parents=tuple(int(float(parent)) for parent in numbers),
        category=tuple_.split("(")[0].strip(),
        text=text,
    )


def _bad_table(place: object, found: str, expected: str) -> DataError:
    return DataError(
        f"The table of questions cannot be read: {place}",
        found=found,
        expected=expected,
        fix=f"Correct the table; {OFFICIAL_NAME} shows the form.",
    )


def _download(path: Path, *, again: bool = False) -> str:
    folder = path.parent
    # The archive's first folder and the next one, dpg_bench, are stripped: the files land where they are looked for.
    command = (
        f"mkdir -p {folder} && curl -fL {OFFICIAL_URL} | tar -xz -C {folder} --strip-components=2 "
        f"ELLA-{COMMIT}/dpg_bench"
    )
    return f"remove {folder / PROMPTS} and run `{command}`." if again else f"Run `{command}`."
