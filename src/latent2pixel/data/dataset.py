"""Folders of images and prompts as a training set.

Shape letters: C channels (3, sRGB), H height, W width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from latent2pixel.errors import DataError
from latent2pixel.io.images import load_image
from latent2pixel.io.records import read_records

logger = logging.getLogger(__name__)

MAX_CACHE_BYTES = 4 * 2**30
"""Decoded images up to 4 GB stay in memory as bytes; 20,000 images of 1024 px (63 GB) are read from disk each time."""


class Item(TypedDict):
    """One training image."""

    image: Tensor
    """Float32 in [-1, 1], shape (3, H, W)."""
    prompt: str
    seed: int
    """Seed that the image was made with."""
    told: NotRequired[dict[str, Tensor]]
    """What the model is told of the image beside its prompt, where it is told anything; see ``told_images``."""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: Path
    prompt: str
    seed: int


class ImageFolderDataset(Dataset):
    """Every readable image of a folder that ``synthesize`` wrote, or of any with the same ``metadata.jsonl``.

    Args:
        folder: Holds ``metadata.jsonl`` (file_name, prompt, seed), itself or in its sub-folders.
        image_size_px: Width and height that all images must have.
        max_cache_bytes: Decoded size up to which images are kept in memory.

    Raises:
        DataError: There is no metadata, or not one readable image.
    """

    def __init__(self, folder: Path, image_size_px: int, *, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        self.image_size_px = image_size_px
        self.skipped: list[str] = []
        """Images that could not be read, each with the reason."""
        listed = _read_entries(folder)
        keep = len(listed) * 3 * image_size_px**2 <= max_cache_bytes
        self._entries: list[_Entry] = []
        self._cached: list[Tensor] | None = [] if keep else None
        for entry in tqdm(listed, desc="images", unit="image", leave=False):
            try:
                image_CHW = load_image(entry.path, size_px=image_size_px)
            except DataError as error:
                self.skipped.append(error.found)
                continue
            self._entries.append(entry)
            if self._cached is not None:
                self._cached.append(((image_CHW + 1) * 127.5).round().to(torch.uint8))
        if self.skipped:
            logger.warning("%d of %d images skipped: %s", len(self.skipped), len(listed), "; ".join(self.skipped[:5]))
        if not self._entries:
            raise DataError(
                "There is no image to train on",
                found=f"{len(self.skipped)} images in {folder}, none usable: {'; '.join(self.skipped[:2])}",
                expected=f"readable images of {image_size_px} x {image_size_px} px",
                fix="Make images with `l2p data synthesize`, or set image_size_px to their size.",
            )

    @property
    def prompts(self) -> list[str]:
        """Prompt of every image, in order."""
        return [entry.prompt for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Item:
        entry = self._entries[index]
        if self._cached is None:
            image_CHW = load_image(entry.path, size_px=self.image_size_px)
        else:
            image_CHW = self._cached[index].float() / 127.5 - 1
        return {"image": image_CHW, "prompt": entry.prompt, "seed": entry.seed}


class FirstImages(Sequence[Tensor]):
    """The first images of a data set, each (3, H, W) in [-1, 1], loaded when asked for.

    Args:
        dataset: Where they come from.
        num_images: How many at most.
    """

    def __init__(self, dataset: ImageFolderDataset, num_images: int) -> None:
        self._dataset, self._count = dataset, min(num_images, len(dataset))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._dataset[index % self._count]["image"]


def _read_entries(folder: Path) -> list[_Entry]:
    # No dot folders: those are shards in the making.
    files = sorted({*folder.glob("metadata.jsonl"), *folder.glob("[!.]*/metadata.jsonl")})
    entries = []
    for file in files:
        for number, record in enumerate(read_records(file), start=1):
            if not isinstance(record.get("file_name"), str) or not isinstance(record.get("prompt"), str):
                raise DataError(
                    f"Record {number} of {file} names no image or no prompt",
                    found=str(sorted(record)),
                    expected="file_name and prompt",
                    fix="Correct or remove the record.",
                )
            seed = record.get("seed", number)
            if not isinstance(seed, int):
                raise DataError(
                    f"Record {number} of {file} has no usable seed",
                    found=f"seed {seed!r}",
                    expected="a whole number, or no seed at all",
                    fix="Correct or remove the seed.",
                )
            entries.append(_Entry(path=file.parent / record["file_name"], prompt=record["prompt"], seed=seed))
    if not entries:
        raise DataError(
            f"{folder} is no folder of images and prompts",
            found="no metadata.jsonl" if not files else "no record in metadata.jsonl",
            expected="metadata.jsonl with file_name and prompt, in the folder or in its sub-folders",
            fix="Make images with `l2p data synthesize`.",
        )
    return entries
