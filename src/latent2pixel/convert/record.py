"""The record that a conversion leaves in its folder, by which the same call knows that it is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latent2pixel.errors import OutputFolderError
from latent2pixel.io.pipeline_folder import read_json

RECORD_NAME = "conversion.json"
"""Stands beside ``model_index.json`` and says how the pipeline was made."""


def holds_conversion(target: Path, settings: Mapping[str, Any], *, record_name: str = RECORD_NAME) -> bool:
    """Tell whether the folder holds this conversion; False if it is free.

    Args:
        target: Folder to make.
        settings: Everything that decides the result, as the record keeps it under "settings".
        record_name: File in the folder that holds the record.

    Raises:
        OutputFolderError: If it holds anything else.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    record = target / record_name
    found = "a file" if target.is_file() else "other files"
    if record.is_file():
        earlier = read_json(record).get("settings", {})
        differing = [key for key in {**settings, **earlier} if settings.get(key) != earlier.get(key)]
        if not differing:
            return True
        found = "a conversion with other " + ", ".join(differing)
    raise OutputFolderError(
        f"{target} exists already",
        found=found,
        expected="a new or empty folder, or the same conversion",
        fix="Choose another output folder, or remove this one.",
    )
