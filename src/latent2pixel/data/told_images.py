"""A training set for models that are told something of every image beside its prompt.

Shape letters: B batch, C channels (3, sRGB), H height, W width.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latent2pixel.data.dataset import ImageFolderDataset, Item
from latent2pixel.data.encoded_cache import EncodedCache
from latent2pixel.io.images import bytes_of

EncodeImages = Callable[[Tensor], list[dict[str, Tensor]]]
"""From images (B, 3, H, W) in [-1, 1] to one dict of tensors each, such as ``Family.encode_images`` of a pipeline."""


class ToldImages(Dataset):
    """A training set whose items also hold what the model is told of their images, which is encoded once.

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
        self._digests = [_digest(images[index]["image"]) for index in range(len(images))]
        places = {digest: index for index, digest in enumerate(self._digests)}

        def encode_digests(digests: list[str]) -> list[dict[str, Tensor]]:
            return encode(torch.stack([images[places[digest]]["image"] for digest in digests]))

        self._told = EncodedCache.build(
            folder, self._digests, encode_digests, batch_size=batch_size, fingerprint=fingerprint
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        return {**self._images[index], "told": self._told[self._digests[index]]}


def _digest(image_CHW: Tensor) -> str:
    return hashlib.sha256(str(image_CHW.shape).encode() + bytes_of(image_CHW).tobytes()).hexdigest()
