"""Cached encodings: every prompt, and every image that a model is told of, is encoded once."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from latent2pixel.errors import DataError
from latent2pixel.io.new_folder import new_folder

Encode = Callable[[list[str]], list[dict[str, Tensor]]]
"""From keys to one dict of tensors each, such as ``Family.encode`` bound to a pipeline."""


class EncodedCache:
    """Encodings of a fixed set of prompts or images, of variable length, on the CPU."""

    def __init__(self, encodings: dict[str, dict[str, Tensor]]) -> None:
        self._encodings = encodings

    @classmethod
    def build(
        cls, folder: Path, keys: Sequence[str], encode: Encode, *, batch_size: int, fingerprint: str
    ) -> "EncodedCache":
        """Encode prompts or images into a folder, or load them if the folder holds them already.

        Args:
            folder: Where caches of one kind are kept, each in a sub-folder named for its content.
            keys: Prompts, or digests of images; repeated ones are encoded once.
            encode: The encoder.
            batch_size: Keys at a time.
            fingerprint: Names the encoder and its weights: another one makes another cache.
        """
        distinct = list(dict.fromkeys(keys))
        digest = hashlib.sha256("\n".join([fingerprint, *distinct]).encode()).hexdigest()[:16]
        path = folder / digest
        if not path.exists():
            tensors: dict[str, Tensor] = {}
            for start in tqdm(range(0, len(distinct), batch_size), desc=folder.name, unit="batch", leave=False):
                batch = distinct[start : start + batch_size]
                for number, (_, item) in enumerate(zip(batch, encode(batch), strict=True), start=start):
                    tensors |= {f"{number}/{key}": value.contiguous() for key, value in item.items()}
            with new_folder(path) as part:
                save_file(tensors, part / "embeddings.safetensors")
                (part / "keys.json").write_text(json.dumps(distinct), encoding="utf-8")
        encodings: dict[str, dict[str, Tensor]] = {own: {} for own in distinct}
        for name, value in load_file(path / "embeddings.safetensors").items():
            number, key = name.split("/", 1)
            encodings[distinct[int(number)]][key] = value
        return cls(encodings)

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        if key not in self._encodings:
            raise DataError(
                "A prompt or an image has no cached encoding",
                found=repr(key),
                expected=f"one of the {len(self._encodings)} that the cache was built for",
                fix="Start the run again, so that the cache is built for its prompts and images.",
            )
        return self._encodings[key]

    def __len__(self) -> int:
        return len(self._encodings)
