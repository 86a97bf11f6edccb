"""What is known of the pipeline that makes images: name, revision and licence, for the record of every image."""

import logging
from dataclasses import dataclass
from pathlib import Path

from yaml import YAMLError

from latent2pixel.io.pipeline_folder import parts_of, read_index
from latent2pixel.io.safetensors_file import fingerprint_of_folders

logger = logging.getLogger(__name__)

CARD = "README.md"
HUB_PREFIX = "models--"
"""The Hub's cache keeps a snapshot in ``models--OWNER--NAME/snapshots/REVISION``."""
DIGITS = 16
"""Digits of a fingerprint that are kept: two of 64 bits are the same by chance once in 10**19."""


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """Where images come from; empty where it is not known."""

    source: str = ""
    """Id on the Hub, or a folder's name; never its path, which belongs to the machine."""
    revision: str = ""
    """Commit on the Hub, or a fingerprint of the folder's parts."""
    licence: str = ""
    """As the model card tells it; "other" is replaced by the licence's name if there is one."""


def source_facts(folder: Path) -> SourceFacts:
    """Return what a pipeline folder tells of itself.

    Raises:
        SourceError: The folder is no pipeline.
    """
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith(HUB_PREFIX):
        source, revision = repository.removeprefix(HUB_PREFIX).replace("--", "/"), folder.name
    else:
        parts = [folder / name for name in parts_of(read_index(folder)) if (folder / name).is_dir()]
        source, revision = folder.resolve().name, f"sha256:{fingerprint_of_folders(parts)[:DIGITS]}"
    return SourceFacts(source=source, revision=revision, licence=_licence(folder / CARD))


def _licence(card: Path) -> str:
    from huggingface_hub.repocard import metadata_load

    try:
        front = metadata_load(card) or {}
    except (OSError, ValueError, YAMLError) as error:
        logger.info("no licence found in %s: %s", card, error)
        return ""
    licence = front.get("license")
    return str((front.get("license_name") if licence == "other" else None) or licence or "")
