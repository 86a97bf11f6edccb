"""What a data folder holds, in numbers: the funnel of its prompts, classes, texts and images, from records alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from latent2pixel.data.claim import read_manifest
from latent2pixel.data.class_shares import ClassShare, class_shares
from latent2pixel.data.data_folder import PROMPTS, REJECTED, SKIPPED, DataFolder
from latent2pixel.data.listing import ImageRecord, image_records
from latent2pixel.data.text_stats import TextStats, text_stats
from latent2pixel.errors import DataError
from latent2pixel.io.images import read_size
from latent2pixel.io.records import read_records

STAGES = ("schema", "format", "text", "safety", "copyright", "duplicate", "near_duplicate", "judge")
"""In the order in which a prompt meets them; others that a folder names come behind."""
MAX_REASONS = 20
"""Reasons that are counted one by one: a language model words nearly each of its own anew."""
REST = "other reasons"
UNKNOWN, UNREADABLE = "not recorded", "unreadable"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the audit."""

    stage: str
    rejected: int
    left: int
    """Prompts that passed it, and all stages before it."""
    reasons: dict[str, int]
    """How often each was given, numbers and quoted words in them replaced by an ellipsis."""


@dataclass(frozen=True, kw_only=True)
class PromptStats:
    """The prompts of a folder."""

    written: int
    """Kept and rejected ones."""
    kept: int
    rejected: int
    funnel: list[Stage]
    made_by: dict[str, Any]
    """What their manifest says in single values: settings, tokens, cost, backend, model."""


@dataclass(frozen=True, kw_only=True)
class ImageStats:
    """The images of a folder."""

    images: int
    prompts: int
    """Different texts among their prompts."""
    images_per_prompt: dict[str, int]
    """Number of images -> number of prompts that have so many."""
    sizes: dict[str, int]
    """Width x height, px -> number of images, the most frequent first."""
    origins: dict[str, int]
    """``source``: made by a model; ``real``."""
    sources: dict[str, int]
    """Models with their revision, or collections."""
    licences: dict[str, int]
    skipped: dict[str, int]
    """Images that were left out, by reason."""


@dataclass(frozen=True, kw_only=True)
class DataStats:
    """All that ``l2p data stats`` prints."""

    folder: str
    prompts: PromptStats | None
    images: ImageStats | None
    texts: TextStats
    """Of the kept prompts; without any, of the images' prompts."""
    classes: list[ClassShare]
    """Of the same, with the number of images."""


@dataclass(kw_only=True)
class _Tally:
    """Counts over the records of images, taken in one pass that keeps none of them."""

    texts: Counter[str] = field(default_factory=Counter)
    described: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    classes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, record: ImageRecord) -> None:
        told = record.fields
        prompt = text_of(told, "prompt")
        self.texts[prompt] += 1
        self.described.setdefault(prompt, {key: told.get(key) for key in ("kind", "language", *CLASS_KEYS)})
        self.sizes[_size_of(record)] += 1
        self.origins[text_of(told, "origin")] += 1
        revision = told.get("revision")
        self.sources[text_of(told, "source") + (f" @ {revision}" if revision else "")] += 1
        self.licences[text_of(told, "licence")] += 1
        self.classes[class_of(told)] += 1


CLASS_KEYS = ("major_class", "sub_class")


def class_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return major class and sub-class of a record."""
    return text_of(record, CLASS_KEYS[0]), text_of(record, CLASS_KEYS[1])


def text_of(record: Mapping[str, Any], key: str) -> str:
    """Return a field of a record as text; what is absent or empty is called so."""
    value = record.get(key)
    return UNKNOWN if value is None or value == "" else str(value)


def collect_stats(folder: Path) -> DataStats:
    """Count what a data folder holds; no picture is decoded, and its file opened only where no record tells its size.

    Args:
        folder: A folder of prompts, of images, or with ``prompts`` and ``images`` in it.

    Raises:
        DataError: It holds no data, or a file of records cannot be read.
        StateError: A manifest is damaged.
    """
    parts = DataFolder.find(folder)
    kept = [] if parts.prompts is None else read_records(parts.prompts / PROMPTS)
    tally = _Tally()
    for record in [] if parts.images is None else image_records(parts.images):
        tally.add(record)
    described = kept or [{**told, "prompt": text} for text, told in tally.described.items()]
    targets = None if parts.prompts is None else parts.prompts / "taxonomy.yaml"
    return DataStats(
        folder=folder.resolve().name,
        prompts=None if parts.prompts is None else _prompt_stats(parts.prompts, len(kept)),
        images=None if parts.images is None else _image_stats(parts.images, tally),
        texts=text_stats(
            [str(record.get("prompt", "")) for record in described],
            languages=[text_of(record, "language") for record in described],
            kinds=[text_of(record, "kind") for record in described],
        ),
        classes=class_shares(Counter(class_of(record) for record in described), images=tally.classes, targets=targets),
    )


def _prompt_stats(folder: Path, kept: int) -> PromptStats:
    path = folder / REJECTED
    rejected = read_records(path) if path.exists() else []
    return PromptStats(
        written=kept + len(rejected),
        kept=kept,
        rejected=len(rejected),
        funnel=_funnel(rejected, kept + len(rejected)),
        made_by=_single_values(read_manifest(folder)),
    )


def _single_values(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a manifest and of its parts, without lists and tables: the funnel holds those."""
    parts = [manifest, *(part for part in manifest.values() if isinstance(part, dict))]
    return {key: value for part in parts for key, value in part.items() if isinstance(value, str | int | float)}


def _funnel(rejected: Iterable[Mapping[str, Any]], written: int) -> list[Stage]:
    by_stage: dict[str, Counter[str]] = {}
    for record in rejected:
        reasons = by_stage.setdefault(text_of(record, "stage"), Counter())
        reasons[kind_of_reason(text_of(record, "reason"))] += 1
    known = [stage for stage in STAGES if stage in by_stage]
    stages, left = [], written
    for stage in [*known, *(other for other in by_stage if other not in STAGES)]:
        count = by_stage[stage].total()
        left -= count
        stages.append(Stage(stage=stage, rejected=count, left=left, reasons=top(by_stage[stage], MAX_REASONS)))
    return stages


def _image_stats(folder: Path, tally: _Tally) -> ImageStats:
    # In a shard: images that a scorer left out.
    files = sorted({*folder.glob(SKIPPED), *folder.glob(f"shard-*/{REJECTED}")})
    skipped = [record for file in files for record in read_records(file)]
    return ImageStats(
        images=tally.texts.total(),
        prompts=len(tally.texts),
        images_per_prompt=top({str(num): count for num, count in Counter(tally.texts.values()).items()}),
        sizes=top(tally.sizes),
        origins=top(tally.origins),
        sources=top(tally.sources),
        licences=top(tally.licences),
        skipped=top(Counter(kind_of_reason(text_of(record, "reason")) for record in skipped)),
    )


def kind_of_reason(reason: str) -> str:
    """Return a reason without the numbers and quoted words that make each of its kind another text."""
    short = re.sub(r"'[^']*'|\"[^\"]*\"|\S*\d\S*", "…", reason)
    # What follows "as" or "of" in a duplicate is the name of the first one.
    return re.sub(r"\b(same picture as|duplicate of) .*", r"\1 …", short)


def top(counts: Mapping[str, int], most: int | None = None) -> dict[str, int]:
    """Return counts, the largest first, equal ones by name; those behind the first ``most`` in one sum."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    if most is None or len(ordered) <= most:
        return dict(ordered)
    return {**dict(islice(ordered, most)), REST: sum(count for _, count in ordered[most:])}


def _size_of(record: ImageRecord) -> str:
    width, height = record.fields.get("width"), record.fields.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        picture = record.picture()
        if picture is None:
            return UNKNOWN
        try:
            height, width = read_size(picture)
        except DataError:
            return UNREADABLE
    return f"{width} x {height}"
