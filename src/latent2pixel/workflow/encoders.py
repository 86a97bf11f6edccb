"""The encoders of a pixel pipeline: loaded when something is to be encoded, and gone before the training starts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import release_memory
from torch import Tensor, nn

from latent2pixel.families import family_of, load_pixel_class
from latent2pixel.families.base import Encoded, Family
from latent2pixel.io.pipeline_folder import open_pipeline, parts_of, read_index, read_json


class Encoders:
    """Text encoders, and encoders of images, of a pixel pipeline's folder.

    Args:
        folder: The pipeline's folder.
        device: Where they run.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device, self._pipe = folder, device, None
        parts = parts_of(read_index(folder))
        self.family: Family = family_of(parts["transformer"][1])
        kept = ("transformer", "vae", *self.family.twins)
        self.names = tuple(name for name in parts if name not in kept and any((folder / name).glob("*.safetensors")))
        """Parts of the pipeline that have weights and are no part of the model."""

    def encode(self, prompts: Sequence[str]) -> list[Encoded]:
        """Return what ``Family.encode`` does."""
        return self.family.encode(self._opened(), prompts)

    def encode_images(self, images_BCHW: Tensor) -> list[Encoded]:
        """Return what ``Family.encode_images`` does."""
        return self.family.encode_images(self._opened(), images_BCHW)

    @contextmanager
    def lent_to(self, pipe: Any) -> Iterator[Any]:
        """Put the encoders into a pipeline that was opened without them, and take them out again."""
        opened = self._opened()
        pipe.register_modules(**{name: opened.components[name] for name in self.names})
        try:
            yield pipe
        finally:
            pipe.register_modules(**dict.fromkeys(self.names))
            self.close()

    def close(self) -> None:
        """Give their memory back; asked again, they are loaded again."""
        self._pipe = None
        release_memory()

    def _opened(self) -> Any:
        """Return the pipeline with all encoders and an empty transformer, which none of them runs."""
        if self._pipe is None:
            pixel_class: Any = load_pixel_class(self.family.name)
            with init_empty_weights(include_buffers=False):
                empty = pixel_class.from_config(read_json(self._folder / "transformer" / "config.json"))
            given = dict.fromkeys(("transformer", *self.family.twins), empty)
            pipe = open_pipeline(self._folder, given=given)
            self.family.require_text_encoders(pipe)
            for name in self.names:
                encoder: nn.Module = pipe.components[name]
                encoder.to(self._device)
            self._pipe = pipe
        return self._pipe
