"""Folders of images and prompts as a training set.

Shape letters: C channels (3, sRGB), H height, W width.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from latent2pixel.data.buckets import Size, bucket_of, bucket_sizes
from latent2pixel.data.listing import Entry, Found, find_images, load_listing, read_entries, save_listing
from latent2pixel.errors import ConfigError, DataError
from latent2pixel.io.images import as_floats, load_bytes
from latent2pixel.io.packed_image import ImageFile

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
    weight_1HW: NotRequired[Tensor]
    """What each pixel counts in the loss, float32 in [0, 1], shape (1, H, W); with all items of a set or with none."""
    told: NotRequired[dict[str, Tensor]]
    """What the model is told of the image beside its prompt, where it is told anything; see ``told_images``."""


class StoredImages(Dataset, ABC):
    """A training set of pictures of 8 bits a channel."""

    @abstractmethod
    def stored(self, index: int) -> Item:
        """Return an item with image and weights as bytes, a quarter of the memory on the way between processes."""

    def __getitem__(self, index: int) -> Item:
        return in_floats(self.stored(index))


def in_floats(item: Item) -> Item:
    """Return an item as training takes it: bytes as float32; floats stay as they are."""
    floats: Item = {**item, "image": as_floats(item["image"])}
    if "weight_1HW" in item and item["weight_1HW"].dtype == torch.uint8:
        floats["weight_1HW"] = item["weight_1HW"].float().div_(255)
    return floats


class ImageFolderDataset(StoredImages):
    """The images of a folder that ``synthesize`` wrote, or of any with the same ``metadata.jsonl``.

    Only records and sizes are read at the start; an image is decoded when it is asked for, and asking for a damaged one
    raises ``DataError``.

    Args:
        folder: Holds ``metadata.jsonl``, itself or in its sub-folders. Its fields: file_name, prompt; seed; weight,
            how often an epoch shows the image on average; mask, the file name of a grey picture of the image's size,
            in which white counts fully and black not at all. Or holds Parquet files as ``pack`` writes them, with the
            pictures in columns image and mask.
        image_size_px: Width and height that all images must have; with buckets, root of their number of pixels.
        patch_px: Side of the model's patch, for buckets of several aspects, to which larger images are scaled down and
            cropped; None: squares only, pixel by pixel.
        mix: More folders, each with its share of the images shown, together below 1.
        listing: Written by ``save_listing`` at the first start of a run, if there was one: the images are those that
            it lists as readable.
        max_cache_bytes: Decoded size up to which images stay in memory once they are decoded.

    Raises:
        ConfigError: The shares are out of range.
        DataError: A folder has no metadata, or not one usable image.
        StateError: The records are others than those of the listing.
    """

    def __init__(
        self,
        folder: Path,
        image_size_px: int,
        *,
        patch_px: int | None = None,
        mix: Mapping[Path, float] | None = None,
        listing: Path | None = None,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self.image_size_px = image_size_px
        mix = mix or {}
        _require_shares(mix)
        parts = [read_entries(part) for part in (folder, *mix)]
        self._listed = [entry for part in parts for entry in part]
        if listing is not None and listing.exists():
            self._found = load_listing(listing, self._listed)
        else:
            self._found = find_images(self._listed)
        buckets = None if patch_px is None else bucket_sizes(image_size_px, patch_px=patch_px)
        self.sizes: list[Size] = []
        """Height and width of each image, as it is cropped."""
        self.skipped: list[str] = []
        """Images that cannot be used, each with the reason."""
        found, kept = iter(self._found), []
        for path, part in zip((folder, *mix), parts, strict=True):
            kept.append([entry for entry in part if self._take(next(found), entry, buckets)])
            if not kept[-1]:
                raise self._nothing_in(path)
        self._entries = [entry for part in kept for entry in part]
        self.weights = _mixed_weights(kept, [1 - sum(mix.values()), *mix.values()])
        """How often an epoch shows each image, on average; 1 for those of the first folder that say nothing else."""
        self._masked = any(entry.mask is not None for entry in self._entries)
        self._crop = buckets is not None
        self._keep = sum((3 + self._masked) * height * width for height, width in self.sizes) <= max_cache_bytes
        self._cached: dict[int, tuple[Tensor, Tensor | None]] = {}
        if self.skipped:
            shown = "; ".join(self.skipped[:5])
            logger.warning("%d of %d images skipped: %s", len(self.skipped), len(self._listed), shown)

    @property
    def prompts(self) -> list[str]:
        """Prompt of every image, in order."""
        return [entry.prompt for entry in self._entries]

    @property
    def paths(self) -> list[ImageFile]:
        """File of every image, in order."""
        return [entry.path for entry in self._entries]

    def save_listing(self, path: Path) -> None:
        """Write what was found, for the next start of the run."""
        save_listing(path, self._listed, self._found)

    def __len__(self) -> int:
        return len(self._entries)

    def stored(self, index: int) -> Item:
        """Return an item with its image and its mask as bytes."""
        image_CHW, mask_1HW = self._cached.get(index) or self._load(index)
        entry = self._entries[index]
        item: Item = {"image": image_CHW, "prompt": entry.prompt, "seed": entry.seed}
        if self._masked:
            item["weight_1HW"] = torch.full_like(image_CHW[:1], 255) if mask_1HW is None else mask_1HW
        return item

    def _load(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Return the bytes of an image and of its mask, if it has one."""
        entry = self._entries[index]
        size: dict[str, Any] = {"cover_px": self.sizes[index]} if self._crop else {"size_px": self.image_size_px}
        image_CHW = load_bytes(entry.path, **size)
        mask_1HW = None if entry.mask is None else load_bytes(entry.mask, channels=1, **size)
        # Each worker process would keep images of its own.
        if self._keep and get_worker_info() is None:
            self._cached[index] = image_CHW, mask_1HW
        return image_CHW, mask_1HW

    def _take(self, found: Found, entry: Entry, buckets: list[Size] | None) -> bool:
        """Note the size of a usable image, or why it is none."""
        if found.size_px is None:
            self.skipped.append(str(found.reason))
            return False
        wanted = (self.image_size_px,) * 2 if buckets is None else bucket_of(found.size_px, buckets)
        height, width = found.size_px
        too_small = height < wanted[0] or width < wanted[1]
        if too_small or (buckets is None and found.size_px != wanted):
            self.skipped.append(f"{entry.path}: {width} x {height} px, not {wanted[1]} x {wanted[0]}")
            return False
        self.sizes.append(wanted)
        return True

    def _nothing_in(self, folder: Path) -> DataError:
        return DataError(
            "There is no image to train on",
            found=f"{folder} without a usable image: {'; '.join(self.skipped[-2:])}",
            expected=f"readable images of {self.image_size_px} x {self.image_size_px} px",
            fix="Make images with `l2p data synthesize`, or set image_size_px to their size.",
        )


class FirstImages(Sequence[Tensor]):
    """The first images of a data set as they are stored, sRGB bytes (3, H, W), loaded when asked for.

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
        return self._dataset.stored(index % self._count)["image"]


def _mixed_weights(parts: Sequence[Sequence[Entry]], shares: Sequence[float]) -> list[float]:
    """Return the weights of all images, the sum of each folder's as its share; the first folder keeps its own."""
    totals = [sum(entry.weight for entry in part) for part in parts]
    weights = [entry.weight for entry in parts[0]]
    for part, total, share in zip(parts[1:], totals[1:], shares[1:], strict=True):
        factor = totals[0] / shares[0] * share / total
        weights += [entry.weight * factor for entry in part]
    return weights


def _require_shares(mix: Mapping[Path, float]) -> None:
    if any(not share > 0 for share in mix.values()) or not sum(mix.values()) < 1:
        raise ConfigError(
            "The shares of the folders to mix in are out of range",
            found=", ".join(f"{folder} {share:g}" for folder, share in mix.items()),
            expected="numbers above 0, together below 1: the rest is the first folder's",
            fix="Lower the shares, such as 0.5 for one image in two.",
        )
