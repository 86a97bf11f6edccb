"""Trained weights in a copy of their pipeline folder, file by file: no model is built, nothing else changes a bit."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from latent2pixel.errors import CheckpointError
from latent2pixel.io.pipeline_folder import FLOAT_DTYPES, INDEX_NAME, parts_of, read_index, read_weights
from latent2pixel.io.safetensors_file import read_entries


def merge_pipeline(base: Path, folder: Path, trained: Mapping[str, Tensor], *, parts: Collection[str]) -> None:
    """Copy a pipeline with other values for some of its weights.

    Shards, dtypes and everything else stay as they are in the base; a trained weight takes the dtype in which the base
    stores it. Memory is needed for one tensor at a time.

    Args:
        base: Pipeline folder.
        folder: Folder to write into, which is there.
        trained: New values by name, in any float dtype, on any device.
        parts: Parts of the pipeline that take them, each all of them.

    Raises:
        CheckpointError: The base has no weight of a name, or one of another shape.
    """
    index = read_index(base)
    for part in parts:
        _require_places(base / part, trained)
    for part in parts_of(index):
        _copy_folder(base / part, folder / part)
    shutil.copyfile(base / INDEX_NAME, folder / INDEX_NAME)
    for part in parts:
        for path in sorted((folder / part).glob("*.safetensors")):
            _overwrite(path, trained)


def _copy_folder(source: Path, target: Path) -> None:
    # Not shutil.copytree, which turns a full disk into an error of its own, nor with modes: caches are read-only.
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _overwrite(path: Path, trained: Mapping[str, Tensor]) -> None:
    """Write trained tensors over the bytes of their names; dtype and shape are the same, so the header stays."""
    entries, start = read_entries(path)
    with path.open("r+b") as file:
        for name in sorted(trained.keys() & entries.keys()):
            dtype = getattr(torch, FLOAT_DTYPES[entries[name]["dtype"]])
            value = trained[name].detach().to("cpu", dtype).contiguous()
            file.seek(start + entries[name]["data_offsets"][0])
            file.write(value.flatten().view(torch.uint8).numpy().data)


def _require_places(part: Path, trained: Mapping[str, Tensor]) -> None:
    stored = read_weights(part)
    missing = sorted(trained.keys() - stored.keys())
    reshaped = [name for name in sorted(trained.keys() & stored.keys()) if stored[name].shape != trained[name].shape]
    whole = [name for name in sorted(trained.keys() & stored.keys()) if stored[name].dtype not in FLOAT_DTYPES]
    if missing or reshaped or whole:
        raise CheckpointError(
            f"The trained weights do not belong to the model in {part}",
            found=f"{len(missing)} names that it has not {missing[:3]}, {len(reshaped)} of another shape "
            f"{reshaped[:3]}, {len(whole)} stored as no float {whole[:3]}",
            expected=f"names and shapes of some of its {len(stored)} weights",
            fix="Name the model that the run was started from; an adapter such as LoRA is loaded into it instead.",
        )
