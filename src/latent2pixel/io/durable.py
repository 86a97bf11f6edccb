"""Files that are on the disk, not only in the system's memory, when a call returns: power may fail afterwards.

Slower than ``new_folder.write_file``, and for folders that others may rename in the meantime: none is ever made here.
"""

import os
import secrets
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        FileNotFoundError: The folder is not there (any more).
    """
    # A name of its own for every writer: two that believe to hold one folder must not mix their bytes.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def append_durably(path: Path, content: bytes) -> None:
    """Append to a file, which is made if it is missing, in one write: what others append comes before or after it.

    Raises:
        FileNotFoundError: The folder is not there (any more).
    """
    with path.open("ab", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk.

    Raises:
        FileNotFoundError: The folder is not there (any more).
    """
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders, and keeps names without being asked
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
