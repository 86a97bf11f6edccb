"""Diffusers pipeline folders: find, check and open them, with errors that say what to do."""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent2pixel.errors import CheckpointError, ConfigError, SourceError
from latent2pixel.io.safetensors_file import StoredTensor, read_header

if TYPE_CHECKING:
    import torch

INDEX_NAME = "model_index.json"
CONFIG_NAMES = (
    "config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "guider_config.json",
)
"""At least one of them is in every part of a pipeline."""
FLOAT_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Safetensors name -> torch name."""
DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes that a user may ask for, by torch's name."""


def find_pipeline_folder(source: str | Path) -> Path:
    """Return the folder of a pipeline, downloading it if ``source`` is the id of a Hub repository.

    Args:
        source: Folder, or ``owner/name`` on the Hugging Face Hub.

    Raises:
        SourceError: If it is neither, or the Hub cannot be reached and holds no local copy.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if folder.exists() or len(folder.parts) != 2 or str(source).startswith((".", "~", "/")):
        raise _no_source(source, found="a file" if folder.exists() else "no such folder")
    try:
        # Only the parts: some repositories also hold a single-file copy of the model beside them, and pickles.
        return Path(snapshot_download(str(source), allow_patterns=[INDEX_NAME, "*/*"], ignore_patterns=["*.bin"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise _no_source(source, found=str(error).splitlines()[0]) from error


def read_index(folder: Path) -> dict[str, Any]:
    """Return the content of ``model_index.json``.

    Raises:
        SourceError: If the folder has none.
        CheckpointError: If it is no JSON object.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise SourceError(
            f"{folder} is no diffusers pipeline",
            found=f"no {INDEX_NAME}" + (", but a config.json" if (folder / "config.json").is_file() else ""),
            expected=f"a folder with {INDEX_NAME} and one sub-folder for each part",
            fix="Pass the folder that `save_pretrained` of the whole pipeline wrote, not one of its parts.",
        )
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: If the file holds no JSON object.
    """
    found = "other JSON"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        content, found = None, str(error)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} cannot be read",
            found=found,
            expected="a JSON object",
            fix="Download, copy or convert the pipeline again.",
        )
    return content


def parts_of(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return part -> (library, class) for the parts that a pipeline really has."""
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        # A pipeline's own setting may be a list of two as well.
        if isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value)
    }


def read_weights(part_folder: Path) -> dict[str, StoredTensor]:
    """Return what the headers of a part's safetensors files say, all shards together.

    Raises:
        CheckpointError: If a file is truncated, a shard is missing, or only pickled weights are there.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in sorted(part_folder.glob("*.safetensors")):
        tensors |= read_header(path)
    for path in part_folder.glob("*.safetensors.index.json"):
        shards = set(read_json(path)["weight_map"].values())
        if missing := sorted(shard for shard in shards if not (part_folder / shard).is_file()):
            raise CheckpointError(
                f"{part_folder} is not complete",
                found=f"missing {', '.join(missing)}",
                expected=f"all {len(shards)} files of {path.name}",
                fix="Download or copy the pipeline again.",
            )
    return tensors


def require_complete(folder: Path) -> dict[str, dict[str, StoredTensor]]:
    """Check that every part of a pipeline is there and whole, without loading it.

    Returns:
        part -> tensors, for the parts that have weights.

    Raises:
        SourceError: If the folder is no pipeline.
        CheckpointError: If a part is missing, truncated, or has no safetensors, or the transformer is quantised.
    """
    weights = {}
    for name, (_, class_name) in parts_of(read_index(folder)).items():
        part = folder / name
        if not any((part / config).is_file() for config in CONFIG_NAMES):
            raise CheckpointError(
                f"The pipeline's part {name!r} is missing",
                found=f"no configuration in {part}",
                expected=f"a folder that holds a {class_name}",
                fix="Download or copy the pipeline again.",
            )
        tensors = read_weights(part)
        if (part / "config.json").is_file() and not any(part.glob("*.safetensors")):
            raise CheckpointError(
                f"The pipeline's part {name!r} has no weights",
                found=f"no *.safetensors in {part}",
                expected=f"the weights of {class_name} as safetensors",
                fix="Download or copy the pipeline again; save pickled weights once with safe_serialization=True.",
            )
        if tensors:
            weights[name] = tensors
    _require_floats(folder / "transformer", weights.get("transformer", {}))
    return weights


def open_pipeline(
    folder: Path,
    *,
    dtype: "torch.dtype | None" = None,
    without: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Load a pipeline folder with its own stock class.

    Args:
        folder: Folder with ``model_index.json``.
        dtype: Dtype of all parts; None keeps the one that most of a part's weights are stored in.
        without: Parts to leave out; they are None in the pipeline.
        given: Parts to take instead of those of the folder.

    Returns:
        A diffusers pipeline of the class that ``model_index.json`` names.

    Raises:
        SourceError: If the folder is no pipeline of the installed diffusers.
        CheckpointError: If parts are missing, truncated, or do not fit their configuration.
    """
    import diffusers
    import torch

    index, given = read_index(folder), given or {}
    weights = require_complete(folder)
    if not hasattr(diffusers, str(index.get("_class_name"))):
        raise SourceError(
            "The installed diffusers has no such pipeline",
            found=f"{index.get('_class_name')} in {folder / INDEX_NAME}",
            expected=f"a pipeline class of diffusers {diffusers.__version__}",
            fix="Update diffusers, or choose another source.",
        )
    dtypes = {name: dtype or getattr(torch, main_dtype(tensors)) for name, tensors in weights.items()}
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            folder,
            dtype={"default": dtype or torch.float32, **dtypes},
            use_safetensors=True,
            **{**dict.fromkeys(without), **given},
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded",
            found=str(error).strip()[:500],
            expected="parts that fit their configurations",
            fix="Download or copy the pipeline again, or install the library versions that it was saved with.",
        ) from error
    if "transformer" in weights.keys() - {*without, *given}:
        _require_equal_keys(folder / "transformer", weights["transformer"], pipe.transformer)
    # Diffusers loads parts that its pipeline can do without even where they are given as None.
    pipe.register_modules(**dict.fromkeys(without))
    return pipe


def save_pipeline(pipe: Any, folder: Path, *, unchanged_from: Path, changed: Collection[str]) -> None:
    """Save a pipeline; parts that have not changed are copied from the folder that they were loaded from.

    So they stay as they are, to the last bit, and not every library's part can be saved and loaded twice.

    Args:
        pipe: The pipeline; whole again afterwards.
        folder: Folder to write into.
        unchanged_from: Pipeline folder of the unchanged parts.
        changed: Parts to save.
    """
    source = read_index(unchanged_from)
    unchanged = [name for name in parts_of(source) if name not in changed and pipe.components.get(name) is not None]
    parts = {name: pipe.components[name] for name in unchanged}
    pipe.register_modules(**dict.fromkeys(unchanged))
    try:
        pipe.save_pretrained(folder)
    finally:
        pipe.register_modules(**parts)
    for name in unchanged:
        shutil.copytree(unchanged_from / name, folder / name)
    index = {**read_index(folder), **{name: source[name] for name in unchanged}}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def parse_dtype(name: str | None) -> "torch.dtype | None":
    """Return the torch dtype of that name, None for None.

    Raises:
        ConfigError: No such dtype.
    """
    if name is None:
        return None
    if name not in DTYPES:
        raise ConfigError(
            "There is no dtype of that name",
            found=repr(name),
            expected=f"one of {', '.join(DTYPES)}",
            fix="Choose one of the listed names.",
        )
    import torch

    return getattr(torch, name)


def main_dtype(tensors: Mapping[str, StoredTensor]) -> str:
    """Return the float dtype of most weights by torch's name; float32 if there is none."""
    import math

    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in FLOAT_DTYPES:
            sizes[tensor.dtype] += math.prod(tensor.shape)
    return FLOAT_DTYPES[sizes.most_common(1)[0][0]] if sizes else "float32"


def _require_floats(part: Path, stored: Mapping[str, StoredTensor]) -> None:
    """Float8 and integer matrices mean nothing without their scales, and diffusers would load them as they are."""
    quantised = {key: tensor.dtype for key, tensor in stored.items() if tensor.dtype not in FLOAT_DTYPES}
    if matrices := sorted(key for key in quantised if len(stored[key].shape) > 1):
        raise CheckpointError(
            f"The weights in {part} are quantised",
            found=f"{len(matrices)} matrices in {quantised[matrices[0]]}, the first {matrices[0]}",
            expected=f"every matrix in one of {', '.join(FLOAT_DTYPES.values())}",
            fix="Choose a release in bfloat16, or load this one with its own code and save it dequantised.",
        )


def _require_equal_keys(part: Path, stored: Mapping[str, StoredTensor], model: Any) -> None:
    """Diffusers only warns of missing keys and fills them with random numbers; here that is an error."""
    expected = set(model.state_dict())
    missing, extra = sorted(expected - stored.keys()), sorted(stored.keys() - expected)
    if missing or extra:
        raise CheckpointError(
            f"The weights in {part} do not fit its configuration",
            found=f"{len(missing)} keys missing {missing[:3]}, {len(extra)} keys not expected {extra[:3]}",
            expected=f"the {len(expected)} keys of {type(model).__name__}",
            fix="Download or copy the pipeline again, or install the diffusers version that it was saved with.",
        )


def _no_source(source: str | Path, *, found: str) -> SourceError:
    return SourceError(
        f"{source} cannot be found",
        found=found,
        expected="a folder with model_index.json, or owner/name of a Hugging Face repository in reach",
        fix="Check the path; for a Hub repository check name, network and `hf auth login`.",
    )
