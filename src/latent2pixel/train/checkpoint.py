"""Checkpoints of a run: trainable weights, their averages, the optimiser and the step; never the frozen trunk."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent2pixel.errors import CheckpointError
from latent2pixel.io.new_folder import new_folder, write_file

PREFIX = "step-"
BEST_NAME = "best.json"
"""Beside the checkpoints: step and validation error of the best one."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run needs to go on; everything else is a function of the step (see ``step.step_generator``)."""

    step: int
    """Steps done."""
    seconds: float
    """Training time so far."""
    trainable: dict[str, Tensor]
    """Trainable parameters by name."""
    average: dict[str, Tensor] | None
    """Their exponential moving averages by name, if the run keeps any."""
    optimizer: dict[str, Any]
    """State dict of the optimiser."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int, milestone_every: int = 0) -> Path:
    """Write a checkpoint as a new folder that appears whole or not at all, then remove the oldest ones.

    Args:
        folder: Folder of all checkpoints of the run.
        checkpoint: What to write.
        keep: Newest checkpoints that stay, beside the best and the milestones.
        milestone_every: Checkpoints of multiples of this step stay; 0: none.
    """
    path = folder / f"{PREFIX}{checkpoint.step:08d}"
    with new_folder(path, replace=True) as part:
        for name, tensors in (("trainable", checkpoint.trainable), ("average", checkpoint.average)):
            if tensors is not None:
                # The file knows one layout only.
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part / f"{name}.safetensors")
        torch.save(checkpoint.optimizer, part / "optimizer.pt")
        (part / "state.json").write_text(json.dumps({"step": checkpoint.step, "seconds": checkpoint.seconds}))
    _remove_old(folder, keep=keep, milestone_every=milestone_every)
    return path


def mark_best(folder: Path, *, step: int, error: float) -> None:
    """Name the checkpoint of a step, which is there, as the best of the run: it stays until there is a better one."""
    write_file(folder / BEST_NAME, json.dumps({"step": step, "error": error}) + "\n")


def best_error(folder: Path) -> float:
    """Return the validation error of the best checkpoint, infinite if there is none."""
    return float(_best(folder).get("error", math.inf))


def best_folder(folder: Path) -> Path | None:
    """Return the checkpoint that is named the best, none if there is none."""
    best = _best(folder)
    return folder / f"{PREFIX}{best['step']:08d}" if best else None


def newest_folder(folder: Path) -> Path | None:
    """Return the newest finished checkpoint of a run, none if there is none."""
    folders = checkpoint_folders(folder)
    return folders[-1] if folders else None


def _remove_old(folder: Path, *, keep: int, milestone_every: int) -> None:
    best = best_folder(folder)
    for old in checkpoint_folders(folder)[:-keep]:
        step = int(old.name.removeprefix(PREFIX))
        if old != best and not (milestone_every and step % milestone_every == 0):
            shutil.rmtree(old)


def _best(folder: Path) -> dict[str, Any]:
    path = folder / BEST_NAME
    return json.loads(path.read_text()) if path.exists() else {}


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the finished checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit())


def load_newest_checkpoint(folder: Path, expected: Mapping[str, torch.Size]) -> Checkpoint | None:
    """Load the newest checkpoint of a run, or return None when there is none.

    Args:
        folder: Folder of all checkpoints of the run.
        expected: Name and shape of every trainable parameter.

    Raises:
        CheckpointError: A file is missing, truncated, or holds other parameters than expected.
    """
    folders = checkpoint_folders(folder)
    if not folders:
        return None
    path = folders[-1]
    try:
        state = json.loads((path / "state.json").read_text())
        trainable = load_file(path / "trainable.safetensors")
        average = load_file(path / "average.safetensors") if (path / "average.safetensors").exists() else None
        optimizer = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    except (OSError, ValueError, SafetensorError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            "a checkpoint cannot be read",
            found=f"{path}: {type(error).__name__}: {error}",
            expected="state.json, trainable.safetensors and optimizer.pt, complete",
            fix=f"remove the folder {path.name} and start again: the run goes on from the checkpoint before it",
        ) from error
    found = {name: tensor.shape for name, tensor in trainable.items()}
    if found != dict(expected):
        differing = sorted(set(found.items()) ^ set(expected.items()), key=str)
        raise CheckpointError(
            "a checkpoint holds other parameters than this run trains",
            found=f"{path}: {len(differing)} entries differ, the first {differing[:2]}",
            expected=f"{len(expected)} trainable parameters of the converted model and freezing preset",
            fix="start the run with the model and settings of its run.yaml, or choose another output folder",
        )
    return Checkpoint(
        step=state["step"], seconds=state["seconds"], trainable=trainable, average=average, optimizer=optimizer
    )
