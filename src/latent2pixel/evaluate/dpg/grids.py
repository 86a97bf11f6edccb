"""Four pictures of a prompt as one file, two by two, and apart again.

Shape letters: C channels (3, sRGB), H height, W width.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.journal import Journal
from latent2pixel.evaluate.pairs import listed_records
from latent2pixel.io.images import load_bytes, png_of
from latent2pixel.io.new_folder import write_file

NUM_SAMPLES = 4
"""Pictures of a prompt that the protocol recommends, and that published numbers are of."""
RECORD = "grids.jsonl"
"""Which pictures each grid was made of."""


@dataclass(frozen=True, kw_only=True)
class GridReport:
    """What a folder of grids was made of."""

    num_grids: int
    """Prompts that have one."""
    incomplete: tuple[str, ...]
    """Prompts that have none, and why; ``score_dpg`` counts them as missing."""
    num_other: int
    """Listed pictures of prompts that are not in the set."""


def compose_grids(
    pictures: Path,
    out: Path,
    *,
    prompts: Mapping[str, str],
    num_samples: int = NUM_SAMPLES,
    on_prompt: Callable[[int, int], None] | None = None,
) -> GridReport:
    """Make one file of the pictures of each prompt; the same call again makes only what is missing or has changed.

    Args:
        pictures: It or its sub-folders hold ``metadata.jsonl`` (file_name, prompt, seed), as ``synthesize`` writes it.
        out: Receives ``ITEM.png`` for each prompt; pictures stand in the order of their seeds: above left, above right,
            below left, below right.
        prompts: From the name of an item to its prompt, as ``DPGBench.prompts``.
        num_samples: Pictures of each prompt: 4, or 1, which is copied as it is.
        on_prompt: Called after each prompt with how many are done, and of how many.

    Raises:
        DataError: There are no records, a prompt has more pictures than it should, or ``out`` has a grid whose pictures
            are not all there any more.
        ConfigError: No grid of so many pictures.
        OutputFolderError: The grids cannot be written.
    """
    require_grid(num_samples)
    found, num_other = _pictures_of(pictures, prompts)
    most = max(found, key=lambda item: len(found[item]))
    if len(found[most]) > num_samples:
        raise DataError(
            "A prompt has more pictures than it should, and which of them to take nobody can know",
            found=f"{len(found[most])} of {most}",
            expected=f"{num_samples}",
            fix="Draw that many, or remove the lines of the others from metadata.jsonl.",
        )
    journal, records, incomplete = Journal(out / RECORD), [], []
    for number, item in enumerate(sorted(prompts), start=1):
        made = _compose(item, found[item], out, num_samples=num_samples, journal=journal)
        if isinstance(made, str):
            incomplete.append(f"{item}: {made}")
        else:
            records.append(made)
        if on_prompt is not None:
            on_prompt(number, len(prompts))
    journal.finish(records)
    _require_no_old_grids(out, [entry.split(": ")[0] for entry in incomplete])
    return GridReport(num_grids=len(records), incomplete=tuple(incomplete), num_other=num_other)


def cut_grid(grid_CHW: Tensor, *, num_samples: int) -> list[Tensor]:
    """Return the single pictures of a grid: above left, above right, below left, below right.

    Args:
        grid_CHW: Four pictures two by two, or a single one.
        num_samples: 4 or 1.

    Raises:
        DataError: Four pictures of one size cannot fill it.
        ConfigError: No grid of so many pictures.
    """
    require_grid(num_samples)
    if num_samples == 1:
        return [grid_CHW]
    height, width = grid_CHW.shape[-2:]
    if height % 2 or width % 2:
        raise DataError(
            "A picture is no grid of four",
            found=f"{width} x {height} px",
            expected="an even width and height",
            fix="Compose the grid again, or score single pictures (num_samples 1).",
        )
    halves = [(slice(0, height // 2), slice(height // 2, height)), (slice(0, width // 2), slice(width // 2, width))]
    return [grid_CHW[:, rows, columns] for rows in halves[0] for columns in halves[1]]


def require_grid(num_samples: int) -> None:
    """Check that a grid can have so many pictures.

    Raises:
        ConfigError: It cannot.
    """
    if num_samples not in (1, NUM_SAMPLES):
        raise ConfigError(
            "There is no grid of so many pictures",
            found=f"num_samples {num_samples}",
            expected=f"{NUM_SAMPLES}, two by two, or 1",
            fix=f"Draw {NUM_SAMPLES} pictures of each prompt.",
        )


def _require_no_old_grids(out: Path, incomplete: list[str]) -> None:
    old = [f"{item}.png" for item in incomplete if (out / f"{item}.png").exists()]
    if old:
        raise DataError(
            "There are grids whose pictures are gone or broken, and they would be scored",
            found=f"{len(old)} in {out}, the first {old[0]}",
            expected="none",
            fix="Remove them, or put the pictures back, and run the same again.",
        )


def _pictures_of(folder: Path, prompts: Mapping[str, str]) -> tuple[dict[str, list[tuple[int, Path]]], int]:
    """Return seed and file of every listed picture by item, and how many are of other prompts."""
    items = {prompt: item for item, prompt in prompts.items()}
    found: dict[str, list[tuple[int, Path]]] = {item: [] for item in prompts}
    num_other = 0
    for name, record in listed_records(folder):
        item, seed = items.get(str(record.get("prompt"))), record.get("seed")
        if item is None:
            num_other += 1
        elif type(seed) is not int:
            raise DataError(
                "A picture has no seed, so its place in the grid is not known",
                found=f"seed {seed!r} of {name}",
                expected="a whole number",
                fix="Draw the pictures with `l2p data synthesize`, or add seeds to metadata.jsonl.",
            )
        else:
            found[item].append((seed, folder / name))
    return found, num_other


def _compose(
    item: str, pictures: list[tuple[int, Path]], out: Path, *, num_samples: int, journal: Journal
) -> dict[str, Any] | str:
    """Make the grid of an item, unless it is there; return its record, or why it cannot be made."""
    if len(pictures) < num_samples:
        return f"{len(pictures)} of {num_samples} pictures"
    files = [path for _, path in sorted(pictures)]
    name = f"{item}.png"
    try:
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        digest = hashlib.sha256(json.dumps([item, contents]).encode()).hexdigest()
        record = journal.find(digest)
        if record is not None and (out / name).is_file():
            return record
        images = [load_bytes(path) for path in files]
    except OSError as error:
        return str(error)
    except DataError as error:
        return error.found
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        return f"pictures of {len(sizes)} sizes"
    rows = [torch.cat(images[start : start + 2], dim=2) for start in range(0, len(images), 2)]
    write_file(out / name, png_of(torch.cat(rows, dim=1)))
    record = {"image": name, "digest": digest, "made_of": [path.name for path in files]}
    journal.append(record)
    return record
