"""A training set for models that are told something of every image beside its prompt.

Shape letters: B batch, C channels (3, sRGB), H height, W width.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from latent2pixel.data.dataset import ImageFolderDataset, Item, StoredImages
from latent2pixel.data.encoded_cache import EncodedCache
from latent2pixel.errors import DataError
from latent2pixel.io.packed_image import ImageFile

EncodeImages = Callable[[Tensor], list[dict[str, Tensor]]]
"""From images (B, 3, H, W) in [-1, 1] to one dict of tensors each, such as ``Family.encode_images`` of a pipeline."""


class ToldImages(StoredImages):
    """A training set whose items also hold what the model is told of their images, which is encoded once.

    Images are told apart by their files' bytes, which are read at every start; decoded are only those that have no
    encoding yet. Nothing is told of a damaged one: asking for it raises ``DataError``, as without this class.

    Args:
        images: The training set.
        folder: Where caches are kept.
        encode: The encoder of images.
        batch_size: Images at a time.
        fingerprint: Names the encoder and its weights: another one makes another cache.
    """

    def __init__(
        self, images: ImageFolderDataset, folder: Path, encode: EncodeImages, *, batch_size: int, fingerprint: str
    ) -> None:
        self._images = images
        self._digests = [_digest(path, size) for path, size in zip(images.paths, images.sizes, strict=True)]
        places = {digest: index for index, digest in enumerate(self._digests)}

        def encode_digests(digests: list[str]) -> list[dict[str, Tensor]]:
            return _encoded(images, [places[digest] for digest in digests], encode)

        self._told = EncodedCache.build(
            folder, self._digests, encode_digests, batch_size=batch_size, fingerprint=fingerprint
        )

    def __len__(self) -> int:
        return len(self._images)

    def stored(self, index: int) -> Item:
        """Return an item with image and mask as bytes."""
        item = self._images.stored(index)
        # A copy: a worker process moves the tensors that it sends into shared memory, and would keep them there.
        told = {key: value.clone() for key, value in self._told[self._digests[index]].items()}
        return {**item, "told": told}


def _encoded(images: ImageFolderDataset, indices: list[int], encode: EncodeImages) -> list[dict[str, Tensor]]:
    """Encode images, those of one size together; nothing for a damaged one."""
    by_size: dict[tuple[int, int], dict[int, Tensor]] = {}
    for index in indices:
        try:
            by_size.setdefault(images.sizes[index], {})[index] = images[index]["image"]
        except DataError:
            continue
    encoded: dict[int, dict[str, Tensor]] = {index: {} for index in indices}
    for batch in by_size.values():
        if batch:
            encoded |= zip(batch, encode(torch.stack(list(batch.values()))), strict=True)
    return [encoded[index] for index in indices]


def _digest(path: ImageFile, size_px: tuple[int, int]) -> str:
    try:
        content = path.read_bytes()
    except OSError:
        # Gone since the run began: what is told of it will not be asked for.
        content = str(path).encode()
    return hashlib.sha256(str(size_px).encode() + content).hexdigest()
