"""The captions of a folder of real images, read from metadata that others wrote and that nobody has checked."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath
from typing import Any

from latent2pixel.errors import DataError
from latent2pixel.io.records import read_records

METADATA = ("metadata.jsonl", "metadata.csv")
"""Names that plain ``datasets`` knows too, the first one first where a folder holds both."""
FILE_KEYS = ("file_name", "image")
"""Columns that name the file: of ``datasets`` and of the released L2P training, and of DiffSynth."""
CAPTION_KEYS = ("prompt", "caption", "text")
"""Columns that hold the caption, the first that is there."""
OPTIONAL_KEYS = ("id", "major_class", "sub_class", "category", "kind", "language", "source", "revision", "licence")
"""Columns that are taken over as they are."""


@dataclass(frozen=True, kw_only=True)
class CaptionedFile:
    """One image that a folder's metadata names."""

    name: str
    """As the metadata's folder and the metadata say, relative to the imported folder."""
    path: Path
    """The file that it leads to, all links followed; it may be missing."""
    caption: str
    """Empty where there is none."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Those of ``OPTIONAL_KEYS`` that hold something."""
    fault: str | None = None
    """Why the row cannot be used, whatever the file holds."""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """What the metadata of a folder say."""

    files: list[CaptionedFile]
    """In the order of the metadata."""
    unused: list[str]
    """Columns that are not taken over."""


def read_captions(folder: Path, *, caption_key: str | None = None, follow_links: bool = False) -> Captions:
    """Read ``metadata.csv`` or ``metadata.jsonl``, in the folder or in its sub-folders.

    Args:
        folder: What is imported.
        caption_key: Column that holds the caption; None takes the first of ``CAPTION_KEYS`` that is there.
        follow_links: Let a symbolic link lead out of the folder, as those of the Hub's cache do; ``..`` and absolute
            paths are refused all the same.

    Raises:
        DataError: There are no metadata, they cannot be read, a column is missing, or a file name leads out of the
            folder. That one ends the import and is not skipped: metadata that reach for other files of the machine are
            an attack or a mistake, and in both cases somebody must look at them before the rest is trained on.
    """
    # No dot folders, as in listing.py. One file a folder: datasets reads no more either.
    places = [folder, *sorted(path for path in folder.glob("[!.]*") if path.is_dir())]
    found = [next(filter(Path.is_file, (place / name for name in METADATA)), None) for place in places]
    files: list[CaptionedFile] = []
    unused: dict[str, None] = {}
    for path in filter(None, found):
        rows = _rows(path)
        keys = _Keys.of(path, rows, caption_key=caption_key)
        names = (key for row in rows for key in row if key is not None)
        unused |= dict.fromkeys(key for key in names if key not in (*OPTIONAL_KEYS, keys.file, keys.caption))
        files += _files(rows, keys, path=path, root=folder, follow_links=follow_links)
    if not files:
        raise DataError(
            f"{folder} is no folder of images with captions",
            found="no metadata.csv and no metadata.jsonl" if not any(found) else "metadata without a row",
            expected=f"metadata with {FILE_KEYS[0]} and one of {', '.join(CAPTION_KEYS)}, in the folder or one below",
            fix="Write one row an image, such as `file_name,text` of the released L2P training.",
        )
    return Captions(files=files, unused=list(unused))


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return read_records(path)
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "The metadata cannot be read",
            found=f"{path}: {error}",
            expected="comma-separated values in UTF-8, with a header",
            fix="Save the table as CSV in UTF-8, or write metadata.jsonl.",
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """Columns of one metadata file."""

    file: str
    caption: str

    @classmethod
    def of(cls, path: Path, rows: Iterable[Mapping[str, Any]], *, caption_key: str | None) -> "_Keys":
        columns = list(dict.fromkeys(key for row in rows for key in row if key is not None))
        wanted = CAPTION_KEYS if caption_key is None else (caption_key,)
        return cls(file=_first(path, columns, FILE_KEYS), caption=_first(path, columns, wanted))


def _first(path: Path, columns: list[str], wanted: tuple[str, ...]) -> str:
    for key in wanted:
        if key in columns:
            return key
    near = get_close_matches(wanted[0], columns, n=1)
    raise DataError(
        f"{path} lacks a column",
        found=f"columns {', '.join(columns) or 'none'}",
        expected=" or ".join(wanted),
        fix=f"Rename the column{f' {near[0]!r}' if near else ''}, or name the caption's with --caption-column.",
    )


def _files(
    rows: Iterable[Mapping[Any, Any]], keys: _Keys, *, path: Path, root: Path, follow_links: bool
) -> Iterator[CaptionedFile]:
    base = root.resolve()
    for number, row in enumerate(rows, start=1):
        name, caption = row.get(keys.file), row.get(keys.caption)
        where = f"row {number} of {path.relative_to(root)}"
        if not isinstance(name, str) or not name.strip():
            yield CaptionedFile(name=where, path=path, caption="", fault="no file name")
            continue
        # csv keeps surplus cells under None: an unquoted comma has shifted the columns.
        fault = "more cells than the header has columns" if None in row else None
        place = path
        try:
            place = _inside(path.parent, name, base=base, where=where, follow_links=follow_links)
        # A name that is no text, or, until Python 3.13, links in a circle.
        except (UnicodeEncodeError, OSError, RuntimeError) as error:
            fault = f"a file name that leads nowhere: {type(error).__name__}"
        yield CaptionedFile(
            # JSON can name half a surrogate pair, which no file of records can hold.
            name=str((path.parent / name).relative_to(root)).encode(errors="replace").decode(),
            path=place,
            caption=caption.strip() if isinstance(caption, str) else "",
            fields=_optional(row),
            fault=fault,
        )


def _optional(row: Mapping[Any, Any]) -> dict[str, str]:
    values = {key: row.get(key) for key in OPTIONAL_KEYS}
    return {key: str(value).strip() for key, value in values.items() if isinstance(value, str | int) and str(value)}


def _inside(folder: Path, name: str, *, base: Path, where: str, follow_links: bool) -> Path:
    """Return the file that a name leads to, which lies in the imported folder."""
    # Read as Windows reads it, which knows both separators and drives: the same metadata are safe everywhere.
    foreign = PureWindowsPath(name)
    if "\0" in name:
        raise _leads_out(where, name, "a zero byte")
    if foreign.drive or foreign.root or ".." in foreign.parts:
        raise _leads_out(where, name, "an absolute path, or one with `..`")
    place = (folder / name).resolve()
    if not follow_links and not place.is_relative_to(base):
        raise _leads_out(where, name, f"a symbolic link to {place}")
    return place


def _leads_out(where: str, name: str, found: str) -> DataError:
    return DataError(
        "A file name leads out of the imported folder; nothing was imported",
        found=f"{where}: {name!r}, {found}",
        expected="files in the folder that holds the metadata, or below it",
        fix="Look where the metadata come from. Links that you trust, such as those of the Hub's cache, are followed "
        "with --follow-links.",
    )
