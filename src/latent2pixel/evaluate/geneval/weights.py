"""Networks that judge pictures: found on this machine, never downloaded, and loaded only if all of them is there."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from latent2pixel.errors import CheckpointError, SourceError
from latent2pixel.io.pipeline_folder import read_weights
from latent2pixel.io.safetensors_file import fingerprint

BUFFERS = ("position_ids", "relative_position_index", "empty_weight")
"""Last words of keys that older files store and newer classes compute: index tables, and the loss's class weights."""


def find_network(source: str | Path, *, tokenizer: bool = False) -> Path:
    """Return the folder of a network: one given by its path, or one that the Hub's local cache holds.

    Args:
        source: Folder, or ``owner/name`` of a Hub repository that has been downloaded.
        tokenizer: Whether a tokenizer has to lie in the folder too.

    Raises:
        SourceError: It is not on this machine; the error has the command that downloads it.
        CheckpointError: The folder has no configuration, no weights or no tokenizer, or a file was cut off.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _cached(source)
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += [] if read_weights(folder) else ["*.safetensors"]
    missing += ["tokenizer.json or vocab.json"] if tokenizer and not _has_tokenizer(folder) else []
    if missing:
        raise CheckpointError(
            f"{source} is not a whole network",
            found=f"no {', no '.join(missing)} in {folder}",
            expected="a folder that `save_pretrained` wrote, or a downloaded repository",
            fix=_download(source, folder=folder),
        )
    return folder


def load_network(network_class: Any, folder: Path) -> Any:
    """Load a network of transformers in float32 for inference, every weight from the folder.

    Raises:
        CheckpointError: Its weights do not fit its configuration.
    """
    try:
        network, info = network_class.from_pretrained(
            folder, dtype="float32", output_loading_info=True, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded",
            found=str(error).strip()[:500],
            expected=f"a {network_class.__name__} of the installed transformers",
            fix="Download the network again, or name another one.",
        ) from error
    # transformers only warns of these, and fills what is missing with random numbers.
    extra = [key for key in sorted(info["unexpected_keys"]) if key.rsplit(".", 1)[-1] not in BUFFERS]
    missing = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
    if missing or extra:
        raise CheckpointError(
            f"The weights in {folder} do not fit their network",
            found=f"{len(missing)} keys missing {missing[:3]}, {len(extra)} keys not expected {extra[:3]}",
            expected=f"the keys of {network_class.__name__}",
            fix="Download the network again, or name another one.",
        )
    return network.eval().requires_grad_(False)


def weights_digest(folder: Path) -> str:
    """Return a SHA-256 of the fingerprints of a network's weights, whatever else lies in its folder."""
    return hashlib.sha256(
        "".join(fingerprint(path) for path in sorted(folder.glob("*.safetensors"))).encode()
    ).hexdigest()


def short_name(source: str | Path, digest: str, *, known: str, name: str) -> str:
    """Return the name of a network in the keys of results.

    Args:
        source: Folder or id that the network was given by.
        digest: ``weights_digest`` of it.
        known: Id of the network that the protocol uses.
        name: Short name of that one.

    Returns:
        ``name`` for the known id; for any other, its last part with eight characters of its digest: folders are
        called anything.
    """
    return name if str(source) == known else f"{Path(source).resolve().name}-{digest[:8]}"


def _cached(source: str | Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise SourceError(
            f"The network {source} is not on this machine",
            found="no such folder, and nothing of that name in the Hub's local cache",
            expected="a folder with config.json and safetensors, or the id of a downloaded repository",
            fix=_download(source),
        ) from error


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def _download(source: str | Path, *, folder: Path | None = None) -> str:
    wanted: Collection[str] = Path(source).parts
    if Path(source).is_dir() or len(wanted) != 2 or str(source).startswith((".", "~", "/")):
        return f"Check the path {folder or source}, or name a Hub repository and run `hf download OWNER/NAME`."
    return f"Run `hf download {source}`, then the same again."
