"""Room on a disk, asked for before hours of work go into what would not fit."""

import shutil
from pathlib import Path

from latent2pixel.errors import OutputFolderError


def require_space(path: Path, num_bytes: int) -> None:
    """Check that a disk has room for what will be written.

    Args:
        path: File or folder to be made.
        num_bytes: What it will take.

    Raises:
        OutputFolderError: If there is less.
    """
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise OutputFolderError(
            "The disk has no room for this",
            found=f"{free / 1e9:.2f} GB free for {path}",
            expected=f"{num_bytes / 1e9:.2f} GB",
            fix="Free some space, or choose a folder on another disk.",
        )
