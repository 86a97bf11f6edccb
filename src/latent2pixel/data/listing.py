"""What a folder of images holds: its records, and the size of every picture, read without decoding any.

A run keeps what it found at its first start. Started again it trains on the same images in the same order, though some
may have been damaged or removed since; a folder with other records is refused.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from latent2pixel.data.buckets import Size
from latent2pixel.errors import DataError, StateError
from latent2pixel.io.images import read_size
from latent2pixel.io.records import read_records, write_records

MAX_WEIGHT = 1000
"""An image that an epoch shows more often than this is a slip of the pen, and an epoch is held in memory."""
NUM_READERS = 8
"""Headers read at a time: on a network drive the time is waiting."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One record of a folder."""

    path: Path
    prompt: str
    seed: int
    weight: float = 1.0
    """How often an epoch shows the image, on average."""
    mask: Path | None = None
    """Grey picture of what each pixel counts; none: all alike."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of an entry's picture: its size, or why it cannot be used."""

    size_px: Size | None = None
    reason: str | None = None


def find_images(entries: Sequence[Entry]) -> list[Found]:
    """Read the sizes of all pictures, and of their masks."""
    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = pool.map(_find, entries)
        return list(tqdm(found, total=len(entries), desc="images", unit="image", leave=False))


def save_listing(path: Path, entries: Sequence[Entry], found: Sequence[Found]) -> None:
    """Write what a run has found."""
    write_records(path, (_record(entry) | asdict(seen) for entry, seen in zip(entries, found, strict=True)))


def load_listing(path: Path, entries: Sequence[Entry]) -> list[Found]:
    """Return what an earlier start of a run has found of the same entries.

    Raises:
        StateError: The folder holds other records now.
        DataError: The file is damaged.
    """
    saved = read_records(path)
    before = [{key: value for key, value in record.items() if key not in ("size_px", "reason")} for record in saved]
    now = [_record(entry) for entry in entries]
    if before != now:
        first = next((i for i, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), None)
        place = min(len(before), len(now)) if first is None else first
        raise StateError(
            "The data have changed since the run began",
            found=f"{len(now)} records, the first that differs is number {place + 1}: {now[place : place + 1]}",
            expected=f"{len(before)} records, there {before[place : place + 1]}, as in {path}",
            fix="Put the records back as they were, or choose another output folder.",
        )
    return [
        Found(size_px=tuple(record["size_px"]) if record["size_px"] else None, reason=record["reason"])
        for record in saved
    ]


def _find(entry: Entry) -> Found:
    try:
        size_px = read_size(entry.path)
        mask_px = size_px if entry.mask is None else read_size(entry.mask)
    except DataError as error:
        return Found(reason=error.found)
    if mask_px != size_px:
        return Found(reason=f"{entry.mask}: a mask of another size than {entry.path.name}")
    return Found(size_px=size_px)


def _record(entry: Entry) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(entry).items()}


def read_entries(folder: Path) -> list[Entry]:
    """Return the records of a folder and of its sub-folders, in order.

    Raises:
        DataError: There is no record, or one lacks a field or has one of the wrong kind.
    """
    # No dot folders: those are shards in the making.
    files = sorted({*folder.glob("metadata.jsonl"), *folder.glob("[!.]*/metadata.jsonl")})
    entries = [
        _entry(record, number, file) for file in files for number, record in enumerate(read_records(file), start=1)
    ]
    if not entries:
        raise DataError(
            f"{folder} is no folder of images and prompts",
            found="no metadata.jsonl" if not files else "no record in metadata.jsonl",
            expected="metadata.jsonl with file_name and prompt, in the folder or in its sub-folders",
            fix="Make images with `l2p data synthesize`.",
        )
    return entries


def _entry(record: dict[str, Any], number: int, file: Path) -> Entry:
    where = f"Record {number} of {file}"
    if not isinstance(record.get("file_name"), str) or not isinstance(record.get("prompt"), str):
        raise DataError(
            f"{where} names no image or no prompt",
            found=str(sorted(record)),
            expected="file_name and prompt",
            fix="Correct or remove the record.",
        )
    seed, weight, mask = record.get("seed", number), record.get("weight", 1.0), record.get("mask")
    if not isinstance(seed, int):
        raise _unusable(where, "seed", seed, "a whole number, or no seed at all")
    # A truth value is an int to Python.
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
        raise _unusable(where, "weight", weight, f"a number above 0, at most {MAX_WEIGHT}, or no weight at all")
    if "mask" in record and not isinstance(mask, str):
        raise _unusable(where, "mask", mask, "the file name of a grey picture, or no mask at all")
    return Entry(
        path=file.parent / record["file_name"],
        prompt=record["prompt"],
        seed=seed,
        weight=float(weight),
        mask=None if mask is None else file.parent / mask,
    )


def _unusable(where: str, field: str, found: object, expected: str) -> DataError:
    return DataError(
        f"{where} has no usable {field}",
        found=f"{field} {found!r}",
        expected=expected,
        fix=f"Correct or remove the {field}.",
    )
