"""A whole pipeline folder of a run's checkpoint and the model that the run started from."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latent2pixel.config import load_yaml
from latent2pixel.errors import CheckpointError, SourceError, StateError
from latent2pixel.families import family_of
from latent2pixel.families.base import require_pixel_pipeline
from latent2pixel.io.merge import merge_pipeline
from latent2pixel.io.new_folder import new_folder, write_file
from latent2pixel.io.pipeline_folder import find_pipeline_folder, require_complete
from latent2pixel.train.checkpoint import newest_folder
from latent2pixel.train.lora import is_lora, scale_of, with_low_ranks
from latent2pixel.workflow.transfer import RECORD, TRAINING_RECORD

WEIGHTS = ("average.safetensors", "trainable.safetensors")
"""Files of a checkpoint that a model can be made of; the first one there is taken, as at the end of a run."""


def merge(checkpoint: str | Path, out: str | Path, *, base: str | Path | None = None) -> Path:
    """Write the pipeline of a run, finished or not, to a new folder.

    Args:
        checkpoint: Run folder, of which the newest checkpoint is taken, or one folder of its checkpoints. The averaged
            weights are taken if the run keeps any.
        out: Folder to make.
        base: The converted model that the run trained; none takes the one that its ``run.yaml`` names.

    Returns:
        The folder: bit for bit the ``model`` of a run that ends at this checkpoint.

    Raises:
        StateError: There is no checkpoint.
        SourceError: The base is not there, or no pixel pipeline.
        CheckpointError: Checkpoint or base are damaged, or do not belong together.
        OutputFolderError: ``out`` holds something, cannot be written, or the disk is full.
    """
    found, target = _checkpoint_of(Path(checkpoint)), Path(out)
    folder = _base_of(found, base)
    family = family_of(require_pixel_pipeline(folder))
    require_complete(folder)
    trained, steps = _load(found)
    changes = with_low_ranks(trained, scale=_lora_scale_of(found) if any(map(is_lora, trained)) else 1.0)
    with new_folder(target) as part:
        merge_pipeline(folder, part, changes, parts=("transformer", *family.twins))
        write_file(part / TRAINING_RECORD, json.dumps({"steps": steps}) + "\n")
    return target


def _checkpoint_of(path: Path) -> Path:
    if (path / WEIGHTS[-1]).is_file():
        return path
    newest = newest_folder(path / "checkpoints")
    if newest is None:
        raise StateError(
            f"{path} holds no checkpoint",
            found=f"no {WEIGHTS[-1]}, and no finished folder in checkpoints" if path.exists() else "no such folder",
            expected="the folder of a run that has saved a checkpoint, or one of these",
            fix="Pass the run folder that `l2p train` was given, after its first checkpoint.",
        )
    return newest


def _base_of(checkpoint: Path, base: str | Path | None) -> Path:
    record = _record_of(checkpoint)
    if base is None and record.is_file():
        base = load_yaml(record).get("model")
    if base is None:
        raise _no_base(found=f"no {RECORD} with a model in {record.parent}")
    try:
        return find_pipeline_folder(base)
    except SourceError as error:
        raise _no_base(found=f"{base}: {error.found}") from error


def _lora_scale_of(checkpoint: Path) -> float:
    """Return the scale of a run's LoRA, which its checkpoints do not hold."""
    record = _record_of(checkpoint)
    settings = load_yaml(record).get("train", {}) if record.is_file() else {}
    if not settings.get("lora_rank"):
        raise StateError(
            "The scale of the checkpoint's LoRA cannot be found",
            found=f"no {RECORD} with a lora_rank in {record.parent}",
            expected=f"the checkpoint in its run folder, beside the run's {RECORD}",
            fix=f"Put {RECORD} back where the run wrote it, two folders above the checkpoint.",
        )
    return scale_of(settings["lora_rank"], settings.get("lora_alpha"))


def _record_of(checkpoint: Path) -> Path:
    return checkpoint.absolute().parents[1] / RECORD


def _no_base(*, found: str) -> SourceError:
    return SourceError(
        "The model that the run trained cannot be found",
        found=found,
        expected="the converted model, with the weights that the run left frozen",
        fix="Name its folder with --base.",
    )


def _load(checkpoint: Path) -> tuple[dict[str, Tensor], int]:
    """Return the weights of a checkpoint, mapped rather than read, and its steps."""
    path = next(checkpoint / name for name in WEIGHTS if (checkpoint / name).is_file())
    try:
        return load_file(path), json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            "A checkpoint cannot be read",
            found=f"{checkpoint}: {type(error).__name__}: {error}",
            expected=f"state.json and {path.name}, complete",
            fix="Name an earlier checkpoint of the run.",
        ) from error
