"""Cached text embeddings: every prompt is encoded once, and the text encoder need not stay in memory."""

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
"""From prompts to one dict of tensors each, such as ``Family.encode`` bound to a pipeline."""


class TextCache:
    """Embeddings of a fixed set of prompts, of variable length, on the CPU."""

    def __init__(self, embeddings: dict[str, dict[str, Tensor]]) -> None:
        self._embeddings = embeddings

    @classmethod
    def build(
        cls, folder: Path, prompts: Sequence[str], encode: Encode, *, batch_size: int, fingerprint: str
    ) -> "TextCache":
        """Encode prompts into a folder, or load them if the folder holds them already.

        Args:
            folder: Where caches are kept, each in a sub-folder named for its content.
            prompts: Texts; repeated ones are encoded once.
            encode: The encoder.
            batch_size: Prompts at a time.
            fingerprint: Names the encoder and its weights: another one makes another cache.
        """
        distinct = list(dict.fromkeys(prompts))
        digest = hashlib.sha256("\n".join([fingerprint, *distinct]).encode()).hexdigest()[:16]
        path = folder / digest
        if not path.exists():
            tensors: dict[str, Tensor] = {}
            for start in tqdm(range(0, len(distinct), batch_size), desc="text", unit="batch", leave=False):
                batch = distinct[start : start + batch_size]
                for number, (_, item) in enumerate(zip(batch, encode(batch), strict=True), start=start):
                    tensors |= {f"{number}/{key}": value.contiguous() for key, value in item.items()}
            with new_folder(path) as part:
                save_file(tensors, part / "embeddings.safetensors")
                (part / "prompts.json").write_text(json.dumps(distinct), encoding="utf-8")
        embeddings: dict[str, dict[str, Tensor]] = {prompt: {} for prompt in distinct}
        for name, value in load_file(path / "embeddings.safetensors").items():
            number, key = name.split("/", 1)
            embeddings[distinct[int(number)]][key] = value
        return cls(embeddings)

    def __getitem__(self, prompt: str) -> dict[str, Tensor]:
        if prompt not in self._embeddings:
            raise DataError(
                "A prompt has no cached embedding",
                found=repr(prompt),
                expected=f"one of the {len(self._embeddings)} prompts that the cache was built for",
                fix="Start the run again, so that the cache is built for its prompts.",
            )
        return self._embeddings[prompt]

    def __len__(self) -> int:
        return len(self._embeddings)
