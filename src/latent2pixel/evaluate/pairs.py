"""Two folders of images as pairs: the same prompt and seed, made by the source and by its pixel model.

Shape letters: B batch, C channels, H height, W width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latent2pixel.errors import DataError
from latent2pixel.io.images import load_image, read_size
from latent2pixel.io.records import read_records

Side = Literal["source", "pixel", "model"]
"""Whose images they are; "model" is one that is looked at alone."""
Key = tuple[str, int]
"""Prompt and seed."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images of one prompt and seed."""

    prompt: str
    """What both show."""
    seed: int
    """Of their noise."""
    source: Path
    """The source's image."""
    pixel: Path
    """The pixel model's."""
    size_px: tuple[int, int]
    """Height and width of both."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An image that is listed, but not in any number, and why."""

    side: Side
    """Whose image it is."""
    file: str
    """Path below its folder."""
    kind: Literal["no record", "missing", "broken", "listed twice", "no partner", "other size"]
    """What is wrong, in one of these words."""
    detail: str
    """More about it."""
    prompt: str | None
    """Prompt of the image, where its record has one."""
    seed: int | None
    """Seed of the image, where its record has one."""

    def as_json(self) -> dict[str, Any]:
        """Return the problem as an object for a record."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """What one folder lists."""

    folder: Path
    """It or its sub-folders hold ``metadata.jsonl``."""
    paths: Mapping[Key, Path]
    """Usable images by prompt and seed, in that order."""
    problems: Sequence[Problem]
    """What is wrong with the others."""
    num_listed: int


@dataclass(frozen=True, kw_only=True)
class _Image:
    folder: Path
    name: str
    size_px: tuple[int, int]

    @property
    def path(self) -> Path:
        return self.folder / self.name


def pair_folders(source_folder: Path, pixel_folder: Path) -> tuple[list[Pair], list[Problem], dict[Side, int]]:
    """Pair the images of two folders by prompt and seed.

    Files are opened but not decoded: damage in the middle of one shows when it is loaded.

    Args:
        source_folder: Images of the source; it or its sub-folders hold ``metadata.jsonl`` (file_name, prompt, seed).
        pixel_folder: Images of the pixel model, likewise. Neither file names nor the order of the lines matter.

    Returns:
        Pairs in the order of prompt and seed; every image that is in none of them, in the same order; and how many
        images each folder lists.

    Raises:
        DataError: A folder has no ``metadata.jsonl``, or a line of it is no record.
    """
    folders: dict[Side, Path] = {"source": source_folder, "pixel": pixel_folder}
    problems: list[Problem] = []
    listed: dict[Side, int] = {}
    found: dict[Side, dict[Key, _Image]] = {}
    bad: dict[Side, set[Key]] = {}
    for side, folder in folders.items():
        found[side], bad[side], listed[side] = _list_images(folder, side, problems)
    pairs = []
    for prompt, seed in sorted(found["source"].keys() | found["pixel"].keys()):
        source, pixel = (found[side].get((prompt, seed)) for side in folders)
        if source and pixel and source.size_px == pixel.size_px:
            pairs.append(Pair(prompt=prompt, seed=seed, source=source.path, pixel=pixel.path, size_px=source.size_px))
        elif source and pixel:
            for side, image, other in (("source", source, pixel), ("pixel", pixel, source)):
                text = f"{_size(image.size_px)}, its partner {_size(other.size_px)}"
                problems.append(_problem(side, image.name, "other size", text, prompt=prompt, seed=seed))
        else:
            for side, single in (("source", source), ("pixel", pixel)):
                if single:
                    damaged = any((prompt, seed) in keys for keys in bad.values())
                    text = f"the other folder's {'cannot be used' if damaged else 'is not listed'}"
                    problems.append(_problem(side, single.name, "no partner", text, prompt=prompt, seed=seed))
    return pairs, sorted(problems, key=problem_order), listed


def list_images(folder: Path, side: Side) -> ListedImages:
    """Return the images of one folder; files are opened but not decoded, as by ``pair_folders``.

    Args:
        folder: It or its sub-folders hold ``metadata.jsonl`` (file_name, prompt, seed).
        side: Whose images they are, for the problems.

    Raises:
        DataError: There is no ``metadata.jsonl``, or a line of it is no record.
    """
    problems: list[Problem] = []
    images, _, num_listed = _list_images(folder, side, problems)
    paths = {key: images[key].path for key in sorted(images)}
    return ListedImages(folder=folder, paths=paths, problems=sorted(problems, key=problem_order), num_listed=num_listed)


def load_pairs(
    pairs: list[Pair], folders: dict[Side, Path], *, batch_size: int, problems: list[Problem]
) -> Iterator[tuple[list[Pair], Tensor, Tensor]]:
    """Yield pairs with their images, some at a time, so that any number of images fits into memory.

    Args:
        pairs: What to load, in this order.
        folders: Of the pairs' images.
        batch_size: Pairs at a time, at most; a batch has images of one size.
        problems: Takes what cannot be decoded, and its partner; the pair is left out.

    Yields:
        Pairs, the source's images and the pixel model's, each (B, 3, H, W) in [-1, 1].
    """
    batch: list[tuple[Pair, Tensor, Tensor]] = []
    for pair in pairs:
        images = {side: _load(getattr(pair, side)) for side in folders}
        if broken := [side for side, image in images.items() if isinstance(image, str)]:
            for side, folder in folders.items():
                kind, text = ("broken", images[side]) if side in broken else ("no partner", "its partner is broken")
                name = getattr(pair, side).relative_to(folder).as_posix()
                problems.append(_problem(side, name, kind, str(text), prompt=pair.prompt, seed=pair.seed))
            continue
        if batch and (len(batch) == batch_size or batch[0][0].size_px != pair.size_px):
            yield _stack(batch)
            batch = []
        batch.append((pair, images["source"], images["pixel"]))  # type: ignore[arg-type]
    if batch:
        yield _stack(batch)


def _load(path: Path) -> Tensor | str:
    try:
        return load_image(path)
    except DataError as error:
        return error.found


def _stack(batch: list[tuple[Pair, Tensor, Tensor]]) -> tuple[list[Pair], Tensor, Tensor]:
    pairs, source, pixel = zip(*batch, strict=True)
    return list(pairs), torch.stack(source), torch.stack(pixel)


def _list_images(folder: Path, side: Side, problems: list[Problem]) -> tuple[dict[Key, _Image], set[Key], int]:
    """Return the usable images of a folder, the keys of others, and how many are listed; tell what is wrong."""
    images: dict[Key, list[_Image]] = {}
    bad: set[Key] = set()
    num_listed = 0
    for name, record in listed_records(folder):
        num_listed += 1
        prompt, seed = record.get("prompt"), record.get("seed")
        if not isinstance(prompt, str) or type(seed) is not int or not isinstance(record.get("file_name"), str):
            text = f"file_name {record.get('file_name')!r}, prompt {prompt!r}, seed {seed!r}"
            problems.append(_problem(side, name, "no record", text, prompt=None, seed=None))
            continue
        try:
            size_px = read_size(folder / name)
        except DataError as error:
            kind: Any = "broken" if (folder / name).is_file() else "missing"
            text = error.found if kind == "broken" else "no such file"
            problems.append(_problem(side, name, kind, text, prompt=prompt, seed=seed))
            bad.add((prompt, seed))
            continue
        images.setdefault((prompt, seed), []).append(_Image(folder=folder, name=name, size_px=size_px))
    # Which of two is meant nobody can know, and taking the first would make the result depend on their order.
    for (prompt, seed), several in images.items():
        if len(several) > 1:
            bad.add((prompt, seed))
            for image in several:
                text = f"{len(several)} images of this prompt and seed"
                problems.append(_problem(side, image.name, "listed twice", text, prompt=prompt, seed=seed))
    return {key: several[0] for key, several in images.items() if len(several) == 1}, bad, num_listed


def listed_records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path of each listed image below the folder, and its record, unchecked.

    Raises:
        DataError: The folder has no ``metadata.jsonl``, or a line of it is no record.
    """
    files = sorted({*folder.glob("metadata.jsonl"), *folder.glob("[!.]*/metadata.jsonl")})
    if not files:
        raise DataError(
            "A folder of images cannot be read",
            found=f"no metadata.jsonl in {folder} or its sub-folders" if folder.is_dir() else f"no folder {folder}",
            expected="one JSON object a line: file_name, prompt, seed",
            fix="Check the path, or make the images with `l2p data synthesize`.",
        )
    for file in files:
        for record in read_records(file):
            yield (file.parent.relative_to(folder) / str(record.get("file_name"))).as_posix(), record


def _problem(side: Any, file: str, kind: Any, detail: str, *, prompt: str | None, seed: int | None) -> Problem:
    return Problem(side=side, file=file, kind=kind, detail=detail, prompt=prompt, seed=seed)


def problem_order(problem: Problem) -> tuple[str, int, str, str]:
    """Sort key of problems: prompt and seed first, so that the order on disk does not show."""
    return (problem.prompt or "", -1 if problem.seed is None else problem.seed, problem.side, problem.file)


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[1]} x {size_px[0]} px"
