"""Published pixel weights of L2P into a stock pipeline folder, and back to their own file, bit for bit."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import latent2pixel
from latent2pixel.convert.convert import with_parts
from latent2pixel.convert.record import RECORD_NAME, holds_conversion
from latent2pixel.errors import CheckpointError, OutputFolderError, SourceError
from latent2pixel.families import load_family, load_pixel_class
from latent2pixel.families.base import require_pipeline
from latent2pixel.families.released import (
    FAMILY_NAME,
    head_levels,
    patch_of,
    pixel_places,
    projection_name,
    released_name,
)
from latent2pixel.io.new_folder import new_file, new_folder
from latent2pixel.io.pipeline_folder import (
    find_pipeline_folder,
    open_pipeline,
    parts_of,
    read_index,
    read_json,
    require_complete,
)
from latent2pixel.io.safetensors_file import StoredTensor, fingerprint, read_header
from latent2pixel.model.codec import PixelVAE


def import_released(file: str | Path, base: str | Path, out: str | Path) -> Path:
    """Make a pixel pipeline folder of a published checkpoint; the same call again returns at once.

    Every tensor keeps the dtype that it has in the file, so ``export_released`` can write it back.

    Args:
        file: Safetensors file, such as ``model-1k-merge.safetensors``.
        base: The latent pipeline that it was made from: a folder, or ``owner/name`` on the Hub. Text encoder, tokenizer
            and scheduler are taken from it.
        out: Folder to make.

    Returns:
        The folder.

    Raises:
        SourceError: If the file or the base is not there, or the base is of another family.
        CheckpointError: If the file is no safetensors file, truncated, or not one of the published layouts.
        OutputFolderError: If ``out`` holds something else, cannot be written, or the disk is full.
    """
    path, target, folder = Path(file), Path(out), find_pipeline_folder(base)
    stored = _read(path)
    settings = {"released": {"bytes": path.stat().st_size, "fingerprint": fingerprint(path)}, "base": str(base)}
    model = _empty_model(folder, stored, path)
    names = _names(model)
    _require_equal(stored, {names[key]: tuple(value.shape) for key, value in model.state_dict().items()}, path)
    if holds_conversion(target, settings):
        return target
    pipe = open_pipeline(folder, without=["transformer", "vae"])
    released, places_D = load_file(path), pixel_places(model)
    state = {key: released[name] for key, name in names.items()}
    projection = f"{projection_name()}.weight"
    state[projection] = state[projection][:, places_D].contiguous()
    model.load_state_dict(state, strict=True, assign=True)
    pipe = with_parts(pipe, {"transformer": model, "vae": PixelVAE(model.codec_factor)})
    record = {
        "source": str(base),
        "settings": settings,
        "latent2pixel": latent2pixel.__version__,
        "patch_size": model.config["pixel_patch_size"],
    }
    with new_folder(target) as partial:
        pipe.save_pretrained(partial)
        (partial / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return target


def export_released(model: str | Path, file: str | Path) -> Path:
    """Write a pixel model's weights under the published names, in the dtypes that they are stored in.

    Args:
        model: Pixel pipeline of the published family: a folder, or ``owner/name`` on the Hub.
        file: Safetensors file to make.

    Returns:
        The file.

    Raises:
        SourceError: If the model is of another family, or has parts that the published layout has no name for.
        CheckpointError: If its weights are missing or truncated.
        OutputFolderError: If the file exists or cannot be written, or the disk is full.
    """
    folder, target = find_pipeline_folder(model), Path(file)
    if target.exists():
        raise OutputFolderError(
            f"{target} exists already",
            found="a file or folder of that name",
            expected="a new file",
            fix="Choose another name, or remove it.",
        )
    require_complete(folder)
    class_name = parts_of(read_index(folder)).get("transformer", ("", "no transformer"))[1]
    pixel_class: Any = load_pixel_class(FAMILY_NAME)
    if class_name != pixel_class.__name__:
        raise SourceError(
            "The published layout has names for one family's pixel models only",
            found=class_name,
            expected=pixel_class.__name__,
            fix="Share the pipeline folder itself; plain diffusers loads it.",
        )
    config = read_json(folder / "transformer" / "config.json")
    with torch.device("meta"):
        empty = pixel_class.from_config(config)
    if empty.config["lift_config"]:
        raise SourceError(
            "The published layout has no names for the parts of a lift",
            found="a model of recipe lift",
            expected="a model of recipe paper or released",
            fix="Share the pipeline folder itself; plain diffusers loads it.",
        )
    if read_json(folder / "vae" / "config.json").get("noise_scale", 1.0) != 1:
        raise SourceError(
            "The published layout says nothing of a noise scale",
            found="a model that was converted with --noise-scale",
            expected="noise scale 1",
            fix="Share the pipeline folder itself; plain diffusers loads it.",
        )
    state: dict[str, Tensor] = {}
    for part in sorted((folder / "transformer").glob("*.safetensors")):
        state |= load_file(part)
    projection = f"{projection_name()}.weight"
    restored = torch.empty_like(state[projection])
    restored[:, pixel_places(empty)] = state[projection]
    state[projection] = restored
    names = _names(empty)
    with new_file(target) as partial:
        save_file({names[key]: value for key, value in state.items()}, partial)
    return target


def _read(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise SourceError(
            f"{path} cannot be found",
            found="no such file",
            expected="a released checkpoint, such as model-1k-merge.safetensors",
            fix="Download it from the repository of the paper's authors.",
        )
    return read_header(path)


def _empty_model(folder: Path, stored: dict[str, StoredTensor], path: Path) -> Any:
    """Return the pixel model of a released file's layout on the meta device."""
    family = load_family(FAMILY_NAME)
    class_name = parts_of(read_index(folder)).get("transformer", ("", "no transformer"))[1]
    if class_name != family.transformer_class.__name__:
        raise SourceError(
            "The base is not of the published checkpoint's family",
            found=class_name,
            expected=f"a latent pipeline with a {family.transformer_class.__name__}",
            fix="Pass the pipeline that the checkpoint was made from.",
        )
    require_pipeline(folder, family)
    patch, levels = patch_of(stored), head_levels(stored)
    if patch is None or levels is None:
        raise CheckpointError(
            f"{path} is no published pixel checkpoint",
            found=f"{len(stored)} tensors, such as {', '.join(sorted(stored)[:3])}",
            expected="an input projection all_x_embedder.16-1 or .64-1 and a local_decoder of 4 or 6 levels",
            fix="Pass the merged 1K or 4K file.",
        )
    # Level names count from the finest; a tiny head for tests has the same names and other channels.
    channels = tuple(
        stored[released_name(f"head.enc.{level}.0.weight", patch_size=patch, num_levels=levels)].shape[0]
        for level in range(levels)
    )
    config = read_json(folder / "transformer" / "config.json")
    return load_pixel_class(FAMILY_NAME).from_config_of(config, pixel_patch_size=patch, head_channels=channels)


def _names(model: Any) -> dict[str, str]:
    """Return our key -> released name."""
    patch, levels = model.config["pixel_patch_size"], len(model.config["head_channels"])
    return {key: released_name(key, patch_size=patch, num_levels=levels) for key in model.state_dict()}


def _require_equal(stored: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    reshaped = [key for key in expected.keys() & stored.keys() if stored[key].shape != expected[key]]
    if missing or extra or reshaped:
        raise CheckpointError(
            f"{path} does not fit its base",
            found=f"{len(missing)} keys missing {missing[:3]}, {len(extra)} keys not expected {extra[:3]}, "
            f"{len(reshaped)} of another shape {sorted(reshaped)[:3]}",
            expected=f"{len(expected)} tensors of the base's sizes",
            fix="Pass the latent pipeline that the checkpoint was made from.",
        )
