"""PNG files written some rows at a time, with a record of how the picture was made.

Shape letters: R rows at once, W width, 3 sRGB.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import PngImagePlugin

from latent2pixel.errors import DataError
from latent2pixel.io.new_folder import new_file

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""PNG specification (W3C, third edition), section 5.2."""
EIGHT_BIT_RGB = struct.pack(">5B", 8, 2, 0, 0, 0)
"""Bit depth, colour type, and the only compression and filter method; not interlaced (section 11.2.1)."""
FILTER_UP = 2
"""Each row less the one above it (section 9.2): smooth pictures become small numbers, at one subtraction a byte."""
COMPRESSION_LEVEL = 6
"""zlib's own default."""
RECORD = "latent2pixel"
"""Keyword of the text chunk with the record."""


def write_png(
    path: Path, bands: Iterable[np.ndarray], *, height: int, width: int, record: Mapping[str, Any] | None = None
) -> None:
    """Write a PNG that appears whole or not at all.

    Args:
        path: The file.
        bands: sRGB bytes, (R, W, 3) each, from the top down.
        height: Of the image.
        width: Of the image.
        record: How the picture was made, JSON-serialisable; its "prompt" is its description too.

    Raises:
        OutputFolderError: The file cannot be written, or the disk is full.
    """
    with new_file(path) as partial, partial.open("wb") as file:
        file.write(SIGNATURE)
        PngImagePlugin.putchunk(file, b"IHDR", struct.pack(">2I", width, height), EIGHT_BIT_RGB)
        for kind, data, _ in _texts(record or {}).chunks:
            PngImagePlugin.putchunk(file, kind, data)
        deflate = zlib.compressobj(COMPRESSION_LEVEL)
        above_1W3 = np.zeros((1, width, 3), np.uint8)
        for band_RW3 in bands:
            shifted_RW3 = np.concatenate([above_1W3, band_RW3[:-1]])
            filtered_RN = np.full((len(band_RW3), 1 + 3 * width), FILTER_UP, np.uint8)
            filtered_RN[:, 1:] = (band_RW3 - shifted_RW3).reshape(
                len(band_RW3), -1
            )  # bytes wrap around, as they should
            PngImagePlugin.putchunk(file, b"IDAT", deflate.compress(filtered_RN.data))
            above_1W3 = band_RW3[-1:]
        PngImagePlugin.putchunk(file, b"IDAT", deflate.flush())
        PngImagePlugin.putchunk(file, b"IEND")


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of a PNG, without decoding it; None where it has none.

    Raises:
        DataError: It is no PNG.
    """
    try:
        # Not Image.open, which refuses pictures beyond 179 million pixels even if none is decoded.
        with PngImagePlugin.PngImageFile(path) as picture:
            text = picture.info.get(RECORD)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            "A picture cannot be read",
            found=f"{path}: {error}",
            expected="a PNG",
            fix="Remove the file, or choose another name.",
        ) from error
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _texts(record: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    """Return text chunks; the keywords Description and Software are the specification's (section 11.3.3.1)."""
    texts = PngImagePlugin.PngInfo()
    if record:
        texts.add_itxt(RECORD, json.dumps(record, ensure_ascii=False))
        texts.add_itxt("Description", str(record.get("prompt", "")))
        texts.add_itxt("Software", f"latent2pixel {record.get('version', '')}".strip())
    return texts
