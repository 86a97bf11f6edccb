"""Safetensors files without loading them: header, completeness, fingerprint."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel.errors import CheckpointError

LENGTH_BYTES = 8
"""A file starts with the length of its JSON header, 8 bytes little-endian (safetensors format specification)."""
CHUNK_BYTES = 64 * 1024
NUM_CHUNKS = 256
"""A fingerprint reads at most 256 x 64 KiB = 16 MiB of a file: any training step changes all of them."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """What a header says of one tensor."""

    dtype: str
    """Safetensors name: F32, BF16, ..."""
    shape: tuple[int, ...]
    """Sizes of its axes."""


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return name, dtype and shape of every tensor in a file.

    Raises:
        CheckpointError: If the file is truncated or no safetensors file.
    """
    entries, _ = read_entries(path)
    return {key: StoredTensor(dtype=entry["dtype"], shape=tuple(entry["shape"])) for key, entry in entries.items()}


def read_entries(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the header's own entries of a file's tensors, and the byte at which their data starts.

    An entry's "data_offsets" are first byte and end, counted from there.

    Raises:
        CheckpointError: If the file is truncated or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or header_bytes > size - LENGTH_BYTES:
            raise _truncated(path, size=size, expected=f"at least {LENGTH_BYTES + header_bytes} bytes")
        text = file.read(header_bytes)
    try:
        header = json.loads(text)
    except ValueError:
        raise CheckpointError(
            f"{path} is no safetensors file",
            found=f"a header that starts with {text[:20]!r}",
            expected="a JSON header",
            fix="Save the model again, or copy the file anew.",
        ) from None
    header.pop("__metadata__", None)
    end = LENGTH_BYTES + header_bytes + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != end:
        raise _truncated(path, size=size, expected=f"{end} bytes")
    return header, LENGTH_BYTES + header_bytes


def fingerprint(path: Path) -> str:
    """Return a SHA-256 of a file's size and of evenly spread chunks of its content (all of it up to 16 MiB)."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    num_chunks = min(NUM_CHUNKS, -(-size // CHUNK_BYTES))
    with path.open("rb") as file:
        for index in range(num_chunks):
            file.seek(
                index * (size - CHUNK_BYTES) // (num_chunks - 1) if num_chunks == NUM_CHUNKS else index * CHUNK_BYTES
            )
            digest.update(file.read(CHUNK_BYTES))
    return digest.hexdigest()


def fingerprint_of_folders(folders: Iterable[Path]) -> str:
    """Return a SHA-256 of the names and contents of all files in some folders, weights by ``fingerprint``."""
    digest = hashlib.sha256()
    for folder in sorted(folders):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()} {fingerprint(path)}\n".encode())
    return digest.hexdigest()


def _truncated(path: Path, *, size: int, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not complete",
        found=f"{size} bytes",
        expected=expected,
        fix="Download or copy the file again; an interrupted copy leaves such files.",
    )
