"""Folders and files that appear complete or not at all."""

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from latent2pixel.errors import OutputFolderError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, quota used up, file size limit."""
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
"""No permission, a read-only disk, or a file where a folder should be and the other way round."""


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` to write into; it takes the name ``path`` when the block ends well.

    Whatever ends the block early (an error, a full disk, Ctrl-C), nothing stays. What a killed process left under the
    temporary name is removed first, so two processes must not make the same folder at once.

    Args:
        path: Folder to make; must not exist, or be empty.
        replace: Take the place of a folder that holds something; it stays until the new one is whole.

    Raises:
        OutputFolderError: If the folder holds something, cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with clear_disk_errors(path):
            if not replace:
                _require_empty(path)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            if replace and path.exists():
                shutil.rmtree(path)
            _require_empty(path)
            if path.exists():
                path.rmdir()
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; its folder is made if it is missing, text becomes UTF-8.

    Several processes may write the same file at once: the last one stays.

    Raises:
        OutputFolderError: If the file cannot be written, or the disk is full.
    """
    # A name of its own for every writer: ranks that start together write the same manifest.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            partial.replace(path)
    finally:
        if partial.exists():  # False, not an error, below something that is no folder
            partial.unlink()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write; it takes the name ``path`` when the block ends well.

    For files that are too large for ``write_file``. As with ``new_folder``, two processes must not make the same one.

    Raises:
        OutputFolderError: If the file cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            yield partial
            partial.replace(path)
    finally:
        if partial.exists():
            partial.unlink()


def _require_empty(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        raise OutputFolderError(
            "The output folder holds something already",
            found=f"{path} with {len(list(path.iterdir()))} entries",
            expected="no folder of that name, or an empty one",
            fix="Choose another folder, or remove this one.",
        )


@contextmanager
def clear_disk_errors(path: Path, *, left: str = "nothing was kept") -> Iterator[None]:
    """Turn what a user's disk can do to a writer into errors that say so.

    Args:
        path: What is being written.
        left: What a full disk leaves of it.

    Raises:
        OutputFolderError: It cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise _full_disk(path, str(error), left) from error
        if error.errno in NO_ACCESS:
            raise OutputFolderError(
                "The output folder cannot be written",
                found=str(error),
                expected=f"write access to {path.parent}",
                fix="Choose another folder, or change its permissions.",
            ) from error
        raise
    except SafetensorError as error:
        # safetensors wraps the operating system's error into text: "I/O error: ... (os error 28)"
        if any(f"os error {number})" in str(error) for number in FULL_DISK):
            raise _full_disk(path, str(error), left) from error
        raise


def _full_disk(path: Path, found: str, left: str) -> OutputFolderError:
    # The folder itself may be what found no room.
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    return OutputFolderError(
        f"The disk is full; {left}",
        found=f"{found}, {free_gb:.2f} GB free",
        expected=f"room for all of it in {path.parent}",
        fix="Free some space or choose a folder on another disk, then run the same command again.",
    )
