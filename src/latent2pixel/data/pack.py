"""A folder of images as Parquet files: few large files instead of many small ones, for training and for the Hub."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from latent2pixel.data.card import CARD, dataset_card
from latent2pixel.data.claim import claim_folder
from latent2pixel.data.columns import Kind, columns_of, value_of
from latent2pixel.data.data_folder import SKIPPED, DataFolder
from latent2pixel.data.listing import ImageRecord, image_records
from latent2pixel.data.stats import collect_stats
from latent2pixel.errors import ConfigError, DataError, L2PError
from latent2pixel.io.images import read_size
from latent2pixel.io.new_folder import new_file, write_file
from latent2pixel.io.packed_image import ImageFile
from latent2pixel.io.records import write_records

SHARD_MB = 500
"""Size of a file, 10**6 bytes: that of ``datasets``, small enough to upload again after a failure."""
ROW_GROUP_BYTES = 4 * 2**20
"""What reading one image at random reads: 4 MiB take a few milliseconds where decoding 1024 px takes tens."""
ROW_GROUP_ROWS = 100
"""Rows of a row group of small images, as ``datasets`` writes them."""
NUM_READERS = 8
"""Files looked at at a time: on a network drive the time is waiting."""
FOLDER, SPLIT = "data", "train"
"""Place and split of the files, as the Hub expects them."""


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What a call of ``pack`` did."""

    num_images: int
    num_skipped: int
    """Images that cannot be read, each with its reason in ``skipped.jsonl``."""
    num_shards: int
    num_new: int
    """Shards written now."""
    bytes: int
    """Of all images, as their files."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One image to pack."""

    name: str
    """Its file, relative to the folder."""
    image: ImageFile
    mask: ImageFile | None
    fields: dict[str, Any]
    num_bytes: int


def pack(
    folder: Path, out: Path, *, shard_mb: float = SHARD_MB, num_shards: int | None = None, licence: str | None = None
) -> PackReport:
    """Write the images of a folder into Parquet files, or go on where an earlier call stopped.

    The image files go in byte for byte, in their order. Plain ``datasets`` loads the result, and so does training.

    Args:
        folder: Images and ``metadata.jsonl``, or a folder with ``prompts`` and ``images``, whose prompts' audit then
            stands in the card.
        out: Receives ``data/train-NNNNN-of-NNNNN.parquet``, ``README.md`` (the dataset card) and ``manifest.json``.
        shard_mb: Largest size of a file, 10**6 bytes of images.
        num_shards: Number of files instead: a multiple of the processes that will read them is fastest.
        licence: Licence of the set, where the records tell none.

    Raises:
        ConfigError: A number is out of range.
        DataError: There is no readable image, or a file name leads out of the folder.
        StateError: ``out`` holds other images, or the same ones in other files.
        OutputFolderError: ``out`` cannot be written, or the disk is full.
        L2PError: ``datasets`` is not installed.
    """
    started = time.monotonic()
    _require_positive(shard_mb, num_shards)
    images = DataFolder.find(folder).images
    if images is None:
        raise _no_image(folder, "prompts only")
    rows, skipped = _rows(images)
    if not rows:
        raise _no_image(folder, "; ".join(record["reason"] for record in skipped[:3]) or "no record")
    total = sum(row.num_bytes for row in rows)
    count = num_shards or min(math.ceil(total / (shard_mb * 1e6)), len(rows))
    if count > len(rows):
        raise ConfigError(
            "There are fewer images than files", found=count, expected=f"at most {len(rows)}", fix="Choose fewer files."
        )
    shards = _shared_out(rows, count, total)
    settings = {"made_by": "pack", "images": _digest(rows), "num_images": len(rows), "num_shards": count}
    claim_folder(out, settings, begun=any((out / FOLDER).glob(f"*{SPLIT}-*")))
    new = _write_missing(out, shards)
    if skipped:
        write_records(out / SKIPPED, skipped)
    stats = collect_stats(folder)
    write_file(out / CARD, dataset_card(stats, [row.fields for row in rows], num_bytes=total, licence=licence))
    return PackReport(
        num_images=len(rows),
        num_skipped=len(skipped),
        num_shards=count,
        num_new=new,
        bytes=total,
        seconds=time.monotonic() - started,
    )


def _write_missing(out: Path, shards: Sequence[Sequence[_Row]]) -> int:
    """Write the files that are not there, and return how many those were."""
    rows = [row for shard in shards for row in shard]
    kinds, masked = columns_of(row.fields for row in rows), any(row.mask is not None for row in rows)
    new = 0
    with tqdm(total=len(rows), desc=out.name, unit="image") as bar:
        for number, shard in enumerate(shards):
            path = out / FOLDER / f"{SPLIT}-{number:05d}-of-{len(shards):05d}.parquet"
            if not path.exists():
                with new_file(path) as partial:
                    _write(partial, shard, kinds, masked=masked)
                new += 1
            bar.update(len(shard))
    return new


def _rows(folder: Path) -> tuple[list[_Row], list[dict[str, str]]]:
    """Return the readable images of a folder, and why the others are none."""
    records = list(image_records(folder))
    for record in records:
        _require_inside(record)
    rows, skipped = [], []
    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = pool.map(lambda record: _row(record, folder), records)
        for record, row in zip(records, tqdm(found, total=len(records), desc="images", leave=False), strict=True):
            if isinstance(row, str):
                skipped.append({"file": _name_of(record, folder), "reason": row})
            else:
                rows.append(row)
    return rows, skipped


def _row(record: ImageRecord, folder: Path) -> _Row | str:
    """Return what is packed of a record, or why it cannot be."""
    image, mask = record.picture(), record.picture("mask")
    prompt = record.fields.get("prompt")
    if image is None or not isinstance(prompt, str):
        return "no image or no prompt"
    try:
        height, width = read_size(image)
    except DataError as error:
        return error.found
    size = image.stat().st_size if isinstance(image, Path) else len(image.read_bytes())
    try:
        # JSON can name half a surrogate pair, which no column can hold.
        json.dumps(record.fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "text that is not Unicode"
    fields = {**record.fields, "width": width, "height": height}
    return _Row(name=_name_of(record, folder), image=image, mask=mask, fields=fields, num_bytes=size)


def _name_of(record: ImageRecord, folder: Path) -> str:
    """Return what a picture is called in the set: its file, relative to the folder."""
    named = record.fields.get("file_name")
    if isinstance(named, str):
        return str((record.file.parent / named).relative_to(folder))
    stored = record.fields.get("image")
    path = stored.get("path") if isinstance(stored, dict) else None
    return path or f"record {record.number} of {record.file.relative_to(folder)}"


def _require_inside(record: ImageRecord) -> None:
    """Check that a record names files of its own folder: a set is given away, other files of the machine are not."""
    for key in ("file_name", "mask"):
        name = record.fields.get(key)
        if isinstance(name, str) and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise DataError(
                "A file name leads out of the folder; nothing was packed",
                found=f"record {record.number} of {record.file}: {name!r}",
                expected="files in the folder that holds the metadata, or below it",
                fix="Look where the folder comes from; copy the images into it and correct the metadata.",
            )


def _shared_out(rows: Sequence[_Row], count: int, total: int) -> list[list[_Row]]:
    """Share rows out in their order, to shards of about the same number of bytes, each with at least one."""
    shards: list[list[_Row]] = [[] for _ in range(count)]
    before, current = 0, 0
    for index, row in enumerate(rows):
        left = len(rows) - index
        wanted = min(before * count // max(total, 1), count - 1)
        if shards[current] and (wanted > current or left <= count - 1 - current):
            current += 1
        shards[current].append(row)
        before += row.num_bytes
    return shards


def _write(path: Path, rows: Sequence[_Row], kinds: dict[str, Kind], *, masked: bool) -> None:
    """Write one file."""
    import pyarrow
    from pyarrow import parquet

    schema = _schema(kinds, masked=masked)
    pictures = ["image", *(["mask"] if masked else [])]
    with parquet.ParquetWriter(
        path,
        schema,
        # Image files are compressed already; a dictionary of them would fill the memory for nothing.
        compression={column: "NONE" if column.endswith(".bytes") else "SNAPPY" for column in _leaves(kinds, pictures)},
        use_dictionary=list(kinds),
    ) as writer:
        for group in _groups(rows):
            records = [_record(row, kinds, masked=masked) for row in group]
            writer.write_table(pyarrow.Table.from_pylist(records, schema=schema), row_group_size=len(records))


def _groups(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    group: list[_Row] = []
    for row in rows:
        full = sum(one.num_bytes for one in group) + row.num_bytes > ROW_GROUP_BYTES or len(group) == ROW_GROUP_ROWS
        if group and full:
            yield group
            group = []
        group.append(row)
    yield group


def _record(row: _Row, kinds: dict[str, Kind], *, masked: bool) -> dict[str, Any]:
    record = {name: value_of(row.fields.get(name), kind) for name, kind in kinds.items()}
    record["image"] = {"bytes": _bytes(row.image), "path": row.name}
    if masked:
        record["mask"] = None if row.mask is None else {"bytes": _bytes(row.mask), "path": row.mask.name}
    return record


def _bytes(image: ImageFile) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise DataError(
            "An image was there when the packing began, and is not any more",
            found=str(error),
            expected="a folder that nothing changes meanwhile",
            fix="Run the same command again, into another folder.",
        ) from error


def _schema(kinds: dict[str, Kind], *, masked: bool) -> Any:
    try:
        from datasets import Features, Image, Value
    except ImportError as error:
        raise L2PError(
            "Packing needs a package that is not installed",
            found=str(error),
            expected="datasets",
            fix='Install it with `pip install "latent2pixel[data]"`.',
        ) from error
    pictures = {"image": Image(), **({"mask": Image()} if masked else {})}
    return Features({**pictures, **{name: Value(kind) for name, kind in kinds.items()}}).arrow_schema


def _leaves(kinds: dict[str, Kind], pictures: Sequence[str]) -> list[str]:
    """Return the columns as Parquet counts them."""
    return [*kinds, *(f"{picture}.{part}" for picture in pictures for part in ("bytes", "path"))]


def _digest(rows: Sequence[_Row]) -> str:
    lines = (json.dumps([row.name, row.num_bytes, row.fields], sort_keys=True, default=str) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _require_positive(shard_mb: float, num_shards: int | None) -> None:
    for name, value in (("shard_mb", shard_mb), ("num_shards", num_shards)):
        if value is not None and not value > 0:
            raise ConfigError(
                f"{name} is out of range", found=value, expected="a number above 0", fix=f"Choose another {name}."
            )


def _no_image(folder: Path, found: str) -> DataError:
    return DataError(
        f"{folder} holds no image to pack",
        found=found,
        expected="images and metadata.jsonl, in the folder or in its folder `images`",
        fix="Make images with `l2p data synthesize`, or take your own with `l2p data import`.",
    )
