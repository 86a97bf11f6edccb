"""What a folder of images holds: its records, and the size of every picture, read without decoding any.

A run keeps what it found at its first start. Started again it trains on the same images in the same order, though some
may have been damaged or removed since; a folder with other records is refused.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from latent2pixel.data.buckets import Size
from latent2pixel.errors import DataError, StateError
from latent2pixel.io.images import read_size
from latent2pixel.io.packed_image import PACKED, ImageFile, PackedImage, packed_files, packed_records
from latent2pixel.io.records import read_records, write_records

MAX_WEIGHT = 1000
"""An image that an epoch shows more often than this is a slip of the pen, and an epoch is held in memory."""
NUM_READERS = 8
"""Headers read at a time: on a network drive the time is waiting."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One record of a folder."""

    path: ImageFile
    prompt: str
    seed: int
    weight: float = 1.0
    """How often an epoch shows the image, on average."""
    mask: ImageFile | None = None
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
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return {key: str(value) if isinstance(value, ImageFile) else value for key, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One record as a folder holds it, unchecked."""

    file: Path
    """Metadata or Parquet file that it stands in."""
    number: int
    """Place in that file, from 1."""
    fields: dict[str, Any]
    """Of a packed folder, with the name of each picture in the picture's place."""

    def picture(self, key: str = "image") -> ImageFile | None:
        """Return where the picture or its mask lies; None if there is none, or no name of a file."""
        if self.file.suffix == PACKED:
            if not isinstance(self.fields.get(key), dict):
                return None
            height, width = self.fields.get("height"), self.fields.get("width")
            size_px = (height, width) if isinstance(height, int) and isinstance(width, int) else None
            return PackedImage(path=self.file, row=self.number - 1, column=key, size_px=size_px)
        name = self.fields.get("file_name" if key == "image" else key)
        return self.file.parent / name if isinstance(name, str) else None


def image_records(folder: Path) -> Iterator[ImageRecord]:
    """Yield the records of a folder and of its sub-folders, in order: of ``metadata.jsonl``, or else of Parquet files.

    Raises:
        DataError: A file of records cannot be read.
    """
    # No dot folders: those are shards in the making.
    files = sorted({*folder.glob("metadata.jsonl"), *folder.glob("[!.]*/metadata.jsonl")})
    for file in files:
        for number, fields_ in enumerate(read_records(file), start=1):
            yield ImageRecord(file=file, number=number, fields=fields_)
    for file in [] if files else packed_files(folder):
        for number, fields_ in enumerate(packed_records(file), start=1):
            yield ImageRecord(file=file, number=number, fields=fields_)


def read_entries(folder: Path) -> list[Entry]:
    """Return the records of a folder and of its sub-folders, in order.

    Raises:
        DataError: There is no record, or one lacks a field or has one of the wrong kind.
    """
    entries = [_entry(record) for record in image_records(folder)]
    if not entries:
        raise DataError(
            f"{folder} is no folder of images and prompts",
            found="no record in metadata.jsonl, and no Parquet file",
            expected="metadata.jsonl with file_name and prompt, or Parquet files with image and prompt, in the folder "
            "or in its sub-folders",
            fix="Make images with `l2p data synthesize`, or take your own with `l2p data import`.",
        )
    return entries


def _entry(record: ImageRecord) -> Entry:
    where, told = f"Record {record.number} of {record.file}", record.fields
    path = record.picture()
    if path is None or not isinstance(told.get("prompt"), str):
        raise DataError(
            f"{where} names no image or no prompt",
            found=str(sorted(told)),
            expected="image and prompt" if record.file.suffix == PACKED else "file_name and prompt",
            fix="Correct or remove the record.",
        )
    seed, weight = told.get("seed", record.number), told.get("weight", 1.0)
    if not isinstance(seed, int):
        raise _unusable(where, "seed", seed, "a whole number, or no seed at all")
    # A truth value is an int to Python.
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
        raise _unusable(where, "weight", weight, f"a number above 0, at most {MAX_WEIGHT}, or no weight at all")
    if "mask" in told and record.picture("mask") is None:
        raise _unusable(where, "mask", told["mask"], "the file name of a grey picture, or no mask at all")
    return Entry(path=path, prompt=told["prompt"], seed=seed, weight=float(weight), mask=record.picture("mask"))


def _unusable(where: str, field: str, found: object, expected: str) -> DataError:
    return DataError(
        f"{where} has no usable {field}",
        found=f"{field} {found!r}",
        expected=expected,
        fix=f"Correct or remove the {field}.",
    )
