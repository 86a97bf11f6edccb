"""Trained weights in a copy of their pipeline folder, file by file: no model is built, nothing else changes a bit.

Shape letters: O outputs and I inputs of a linear layer, R the rank of a change.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latent2pixel.errors import CheckpointError
from latent2pixel.io.pipeline_folder import FLOAT_DTYPES, INDEX_NAME, parts_of, read_index, read_weights
from latent2pixel.io.safetensors_file import read_entries


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """What a LoRA adds to the weight of a linear layer, ``scale * up @ down``."""

    down_RI: Tensor
    """First matrix, any float dtype."""
    up_OR: Tensor
    """Second matrix."""
    scale: float
    """Factor of their product."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight, (O, I)."""
        return self.up_OR.shape[0], self.down_RI.shape[1]

    def added_to(self, weight_OI: Tensor) -> Tensor:
        """Return the changed weight, float32, on the CPU."""
        up_OR, down_RI = (each.detach().to("cpu", torch.float32) for each in (self.up_OR, self.down_RI))
        return weight_OI.float() + self.scale * (up_OR @ down_RI)


def merge_pipeline(
    base: Path, folder: Path, trained: Mapping[str, Tensor | LowRank], *, parts: Collection[str]
) -> None:
    """Copy a pipeline with other values for some of its weights.

    Shards, dtypes and everything else stay as they are in the base; a trained weight takes the dtype in which the base
    stores it. Memory is needed for one tensor at a time.

    Args:
        base: Pipeline folder.
        folder: Folder to write into, which is there.
        trained: New values by name, in any float dtype, on any device; or what is added to the base's.
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


def _overwrite(path: Path, trained: Mapping[str, Tensor | LowRank]) -> None:
    """Write trained tensors over the bytes of their names; dtype and shape are the same, so the header stays."""
    entries, start = read_entries(path)
    with path.open("r+b") as file:
        for name in sorted(trained.keys() & entries.keys()):
            dtype = getattr(torch, FLOAT_DTYPES[entries[name]["dtype"]])
            first, end = entries[name]["data_offsets"]
            file.seek(start + first)
            change = trained[name]
            if isinstance(change, LowRank):
                stored = torch.frombuffer(bytearray(file.read(end - first)), dtype=dtype).view(entries[name]["shape"])
                change = change.added_to(stored)
                file.seek(start + first)
            value = change.detach().to("cpu", dtype).contiguous()
            file.write(value.flatten().view(torch.uint8).numpy().data)


def _require_places(part: Path, trained: Mapping[str, Tensor | LowRank]) -> None:
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
