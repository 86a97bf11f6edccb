"""Real images with captions as a training set: what synthesis makes of prompts, made of a folder instead."""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from latent2pixel.data.captions import CaptionedFile, read_captions
from latent2pixel.data.claim import claim_folder
from latent2pixel.data.data_folder import SKIPPED
from latent2pixel.data.real_image import UsableImage, usable_image
from latent2pixel.data.stats import kind_of_reason, top
from latent2pixel.errors import ConfigError, DataError, OutputFolderError
from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.records import read_records, write_records

SHARD_SIZE = 240
"""Rows of the metadata in a shard, as ``synthesize`` makes them: what a killed import repeats at most."""
NUM_AHEAD = 32
"""Images in memory at a time: several for each core, so that none waits long for the slowest."""
NO_CLASS = "unsorted"
"""Class of images whose metadata name none."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What a call of ``import_images`` did."""

    num_images: int
    """Images of the folder, old and new."""
    num_new: int
    """Images written now."""
    num_skipped: int
    """Rows that gave no image, each with its reason in ``skipped.jsonl``."""
    skipped: dict[str, int]
    """How many by kind of reason."""
    unused_columns: list[str]
    """Columns of the metadata that were not taken over."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What decides the content of the folder."""

    size_px: int | None
    source: str
    licence: str | None
    captions: str
    """Digest of all rows."""


def import_images(
    folder: Path,
    out: Path,
    *,
    size_px: int | None = None,
    caption_key: str | None = None,
    source: str | None = None,
    licence: str | None = None,
    follow_links: bool = False,
) -> ImportReport:
    """Make a training set of a folder of images with captions, or go on where an earlier call stopped.

    A picture that comes a second time is skipped, even with another caption: it would count twice.

    Args:
        folder: Holds ``metadata.csv`` or ``metadata.jsonl``, itself or in its sub-folders; see ``captions``.
        out: Receives ``shard-NNNNN`` with images and ``metadata.jsonl``, ``skipped.jsonl`` and ``manifest.json``.
        size_px: Width and height to which larger images are scaled down and cropped, and below which they are skipped;
            None leaves their sizes, for training in aspect buckets.
        caption_key: Column that holds the caption.
        source: Where the images come from, for the records; None: the folder's name.
        licence: Their licence, for the records, unless a row has its own.
        follow_links: Let symbolic links lead out of the folder.

    Raises:
        ConfigError: The size is below 1.
        DataError: The metadata cannot be used, a file name leads out of the folder, or no image is usable.
        StateError: ``out`` holds an import of other rows or settings.
        OutputFolderError: ``out`` is the folder itself, cannot be written, or the disk is full.
    """
    if size_px is not None and size_px < 1:
        raise ConfigError(
            "size is out of range", found=size_px, expected="a number above 0", fix="Choose another size."
        )
    started = time.monotonic()
    if out.resolve() == folder.resolve():
        raise OutputFolderError(
            "The images cannot go into the folder that they come from",
            found=out,
            expected="another folder: the next call would take them for new ones",
            fix="Choose another output folder.",
        )
    captions = read_captions(folder, caption_key=caption_key, follow_links=follow_links)
    settings = _Settings(
        size_px=size_px, source=source or folder.resolve().name, licence=licence, captions=_digest(captions.files)
    )
    # Shards in the making count (they begin with a dot); a call that made nothing must not block the corrected one.
    claim_folder(out, {"made_by": "import", **asdict(settings)}, begun=any(out.glob("*shard-*")))
    run = _Import(out, settings, captions.files)
    run.take_all(captions.files)
    if not run.num_images:
        raise _nothing_usable(folder, run.skipped)
    kinds = Counter(kind_of_reason(record["reason"].split(":")[0]) for record in run.skipped)
    return ImportReport(
        num_images=run.num_images,
        num_new=run.num_new,
        num_skipped=len(run.skipped),
        skipped=top(kinds),
        unused_columns=captions.unused,
        seconds=time.monotonic() - started,
    )


class _Import:
    """An import on its way through the rows, shard by shard."""

    def __init__(self, out: Path, settings: _Settings, files: Sequence[CaptionedFile]) -> None:
        self._out, self._settings = out, settings
        # One set of fields in all records, so that tables made of single shards have the same columns.
        self._fields: dict[str, str] = dict.fromkeys((key for file in files for key in file.fields), "")
        self._seen: dict[str, str] = {}
        """Digest of the pixels -> the first file that showed them."""
        self._skipped: dict[str, list[dict[str, Any]]] = {}
        """Shard -> its rows without an image."""
        for record in read_records(out / SKIPPED) if (out / SKIPPED).exists() else []:
            if (out / record["shard"]).exists():
                self._skipped.setdefault(record["shard"], []).append(record)
        self.num_images = self.num_new = 0

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """Rows without an image, in order."""
        return [record for _, records in sorted(self._skipped.items()) for record in records]

    def take_all(self, files: Sequence[CaptionedFile]) -> None:
        """Make all shards that are not there."""
        # Pillow warns of odd files, line by line, and of sizes that 10K images reach; what it cannot read it raises.
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with tqdm(total=len(files), desc=self._out.name, unit="image") as bar:
                for first in range(0, len(files), SHARD_SIZE):
                    rows = files[first : first + SHARD_SIZE]
                    self._take(rows, first, pool)
                    bar.update(len(rows))
        self._note_skipped()

    def _take(self, rows: Sequence[CaptionedFile], first: int, pool: ThreadPoolExecutor) -> None:
        """Make the shard of some rows, or count the one that is there."""
        name = f"shard-{first // SHARD_SIZE:05d}"
        if (self._out / name).exists():
            records = read_records(self._out / name / "metadata.jsonl")
            self._seen |= {record["pixels"]: record["original"] for record in records}
            self.num_images += len(records)
            return
        with new_folder(self._out / name) as part:
            records = list(self._records(rows, first, part, pool, shard=name))
            write_records(part / "metadata.jsonl", records)
            # Written before the shard takes its name: of a shard that is there, all skipped images are known.
            self._note_skipped()
        if not records:
            # Whoever has corrected the files runs the same command again: these rows are then looked at once more.
            shutil.rmtree(self._out / name)
        self.num_images += len(records)
        self.num_new += len(records)

    def _note_skipped(self) -> None:
        """Write what was skipped so far; without any, leave no file."""
        if self._skipped or (self._out / SKIPPED).exists():
            write_records(self._out / SKIPPED, self.skipped)

    def _records(
        self, rows: Sequence[CaptionedFile], first: int, part: Path, pool: ThreadPoolExecutor, *, shard: str
    ) -> Iterator[dict[str, Any]]:
        """Write the usable images, in order, and yield their records."""
        for number, (row, image) in enumerate(self._looked_at(rows, pool), start=first):
            if isinstance(image, UsableImage) and image.digest in self._seen:
                image = f"duplicate: the same picture as {self._seen[image.digest]}"
            if isinstance(image, str):
                self._skipped.setdefault(shard, []).append({"file": row.name, "reason": image, "shard": shard})
                continue
            self._seen[image.digest] = row.name
            name = f"{number:06d}{image.suffix}"
            (part / name).write_bytes(image.content)
            yield {"file_name": name, **self._record(row, number, image)}

    def _looked_at(
        self, rows: Sequence[CaptionedFile], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[CaptionedFile, UsableImage | str]]:
        # A few at a time: a whole shard of 4K images would be 7 GB.
        for start in range(0, len(rows), NUM_AHEAD):
            ahead = rows[start : start + NUM_AHEAD]
            yield from zip(ahead, pool.map(lambda row: _look_at(row, self._settings.size_px), ahead), strict=True)

    def _record(self, row: CaptionedFile, number: int, image: UsableImage) -> dict[str, Any]:
        settings = self._settings
        licence = {} if settings.licence is None else {"licence": settings.licence}
        return {
            **self._fields,
            "id": f"{number:06d}",
            "major_class": NO_CLASS,
            "sub_class": NO_CLASS,
            "source": settings.source,
            **licence,
            **row.fields,
            "prompt": row.caption,
            # Nothing was drawn for a real image; a run with fixed noise needs a number of its own for each.
            "seed": number,
            "width": image.width,
            "height": image.height,
            "origin": "real",
            "original": row.name,
            "pixels": image.digest,
        }


def _look_at(row: CaptionedFile, size_px: int | None) -> UsableImage | str:
    """Return the picture of a row, or why there is none."""
    if row.fault is not None:
        return row.fault
    if not row.caption:
        return "no caption"
    try:
        # JSON can name half a surrogate pair, which no text file can hold.
        json.dumps([row.name, row.caption, *row.fields.values()], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "text that is not Unicode"
    try:
        return usable_image(row.path, size_px=size_px)
    except DataError as error:
        return error.found


def _digest(files: Sequence[CaptionedFile]) -> str:
    rows = [[file.name, file.caption, dict(file.fields), file.fault] for file in files]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def _nothing_usable(folder: Path, skipped: Sequence[dict[str, Any]]) -> DataError:
    named = "; ".join(f"{record['file']}: {record['reason']}" for record in skipped[:3])
    return DataError(
        "There is no image to import",
        found=f"{len(skipped)} rows of {folder}, none with a usable image: {named}",
        expected="at least one image of 8 or 16 bits with a caption",
        fix="Correct the files or the metadata; skipped.jsonl names all of them.",
    )
