"""The page of a data folder: its numbers, and small copies of some of its pictures."""

import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from latent2pixel.data.data_folder import DataFolder
from latent2pixel.data.listing import ImageRecord, image_records
from latent2pixel.data.stats import DataStats, class_of, text_of
from latent2pixel.data.text_stats import BAND
from latent2pixel.errors import DataError
from latent2pixel.io.images import thumbnail
from latent2pixel.report.data_page import DataPage, SheetPicture, write_data_page

NUM_PICTURES = 60
"""Three for each of the paper's 20 sub-classes; with 8 KB each, a page of half a megabyte."""
SIDE_PX = 224
"""Longest side: sharp at the 150 px of the sheet on most screens."""


def write_stats_page(folder: Path, stats: DataStats, path: Path, *, seed: int = 0) -> Path:
    """Write the page of a data folder as one HTML file and return its path.

    Args:
        folder: As ``collect_stats`` takes it.
        stats: What it found there.
        path: File to write.
        seed: Draws the pictures.

    Raises:
        DataError: A file of records cannot be read.
        L2PError: A package is missing, or the file cannot be written.
    """
    images = DataFolder.find(folder).images
    records = [] if images is None else _drawn(image_records(images), generator=random.Random(seed))
    pictures: list[SheetPicture] = []
    for record in records:
        if len(pictures) < NUM_PICTURES and (picture := _small(record)) is not None:
            pictures.append(picture)
    pictures.sort(key=lambda picture: picture.group)
    return write_data_page(DataPage(stats=asdict(stats), band=BAND, pictures=pictures), path)


def _drawn(records: Iterable[ImageRecord], *, generator: random.Random) -> list[ImageRecord]:
    """Draw records in turn from every class, in one pass that keeps few of them."""
    drawn: dict[tuple[str, str], list[ImageRecord]] = {}
    seen: dict[tuple[str, str], int] = {}
    for record in records:
        group = class_of(record.fields)
        seen[group] = seen.get(group, 0) + 1
        kept = drawn.setdefault(group, [])
        # Reservoir sampling: each record of a class has the same chance, however many there are.
        if len(kept) < NUM_PICTURES:
            kept.append(record)
        elif (place := generator.randrange(seen[group])) < NUM_PICTURES:
            kept[place] = record
    groups = list(drawn.values())
    generator.shuffle(groups)
    for kept in groups:
        generator.shuffle(kept)
    return [kept[turn] for turn in range(NUM_PICTURES) for kept in groups if turn < len(kept)]


def _small(record: ImageRecord) -> SheetPicture | None:
    """Return a small copy of a picture, or None for one that cannot be read."""
    picture = record.picture()
    if picture is None:
        return None
    try:
        jpeg = thumbnail(picture, side_px=SIDE_PX)
    except DataError:
        return None
    group = " / ".join(class_of(record.fields))
    return SheetPicture(caption=text_of(record.fields, "prompt"), group=group, jpeg=jpeg)
