"""What encoders would return, without their weights."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from latent2pixel.families import family_of
from latent2pixel.families.base import Encoded
from latent2pixel.io.pipeline_folder import main_dtype, open_pipeline, parts_of, read_index, read_weights
from latent2pixel.train.live_bytes import KnownPlaces, drop_data


def encode_shapes(folder: Path, prompt: str, *, transformer: Any, mode: Any) -> Encoded:
    """Return a prompt's encoding, zero but for its masks: as the pipeline's own tokenizers and encoders shape it.

    What a family tells of images beside prompts is left out; its ``collate`` fills it up.

    Args:
        folder: Pipeline folder; only its configurations and tokenizers are read.
        prompt: The text.
        transformer: Stands in the pipeline; no encoder runs it.
        mode: A ``FakeTensorMode`` that lets in tensors with data.
    """
    parts = parts_of(read_index(folder))
    family = family_of(parts["transformer"][1])
    kept = ("transformer", *family.twins)
    weighty = [name for name in parts if any((folder / name).glob("*.safetensors"))]
    empty = {name: empty_part(folder, name, mode=mode) for name in weighty if name not in kept}
    given = empty | dict.fromkeys(("transformer", *family.twins), transformer)
    pipe = open_pipeline(folder, given=given)
    with KnownPlaces(), _answering_zeros(list(empty.values())):
        (encoded,) = family.encode(pipe, [prompt])
    return {name: _zeros(value) for name, value in encoded.items()}


def empty_part(folder: Path, name: str, *, mode: Any) -> nn.Module:
    """Return a network of a pipeline folder without its weights, in the dtype that they are stored in.

    Args:
        folder: Pipeline folder.
        name: Part, of diffusers or of transformers.
        mode: As in ``encode_shapes``.
    """
    library, class_name = parts_of(read_index(folder))[name]
    # A class that diffusers' pipeline brings along stands in the module of that pipeline.
    module = getattr(diffusers.pipelines, library, None) or importlib.import_module(library)
    part_class: Any = getattr(module, class_name)
    with init_empty_weights(include_buffers=False):
        if hasattr(part_class, "load_config"):
            part = part_class.from_config(part_class.load_config(folder / name))
        else:
            part = part_class(part_class.config_class.from_pretrained(folder / name))
    drop_data(part, dtype=getattr(torch, main_dtype(read_weights(folder / name))), mode=mode)
    return part.requires_grad_(False).eval()


@contextmanager
def _answering_zeros(encoders: list[nn.Module]) -> Iterator[None]:
    """Let encoders answer with zeros instead of tensors without data, so that masks can cut them."""
    hooks = [encoder.register_forward_hook(lambda _, __, output: tree_map(_zeros, output)) for encoder in encoders]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _zeros(value: Any) -> Any:
    return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, FakeTensor) else value
