"""The manifest of a folder that is filled over several calls: all of them must want the same."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latent2pixel.errors import StateError
from latent2pixel.io.new_folder import write_file

MANIFEST = "manifest.json"


def claim_folder(folder: Path, settings: Mapping[str, Any], *, begun: bool) -> None:
    """Write the manifest of a folder, or check that its own says the same.

    Args:
        folder: What is filled.
        settings: What decides its content.
        begun: Whether something of it is there: if not, an older manifest is replaced.

    Raises:
        StateError: The folder was begun with other settings, or its manifest cannot be read.
        OutputFolderError: The folder cannot be written.
    """
    path = folder / MANIFEST
    if not begun or not path.exists():
        write_file(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    before = read_manifest(folder)
    if differing := sorted(key for key in settings if before.get(key) != settings[key]):
        raise other_settings(f"{folder} was begun with other data or settings", settings, before, differing=differing)


def other_settings(
    message: str, settings: Mapping[str, Any], before: Mapping[str, Any], *, differing: Sequence[str]
) -> StateError:
    """Return the error for a folder that was begun with settings that differ from those of now."""
    return StateError(
        message,
        found=", ".join(f"{key} = {settings.get(key)}" for key in differing),
        expected=", ".join(f"{key} = {before.get(key)}" for key in differing),
        fix="Repeat the earlier settings to go on, or choose another folder.",
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a folder says; empty if it has none.

    Raises:
        StateError: It is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(manifest, dict):
        raise _damaged(path, type(manifest).__name__)
    return manifest


def _damaged(path: Path, found: str) -> StateError:
    return StateError(
        "A manifest is damaged",
        found=f"{path}: {found}",
        expected="one JSON object",
        fix="Remove the file if you know the settings, or make the folder again.",
    )
