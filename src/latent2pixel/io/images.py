"""Images as tensors in [-1, 1].

Shape letters: C channels (3, sRGB), H height, W width.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from latent2pixel.errors import DataError
from latent2pixel.io.new_folder import write_file
from latent2pixel.io.packed_image import ImageFile, PackedImage

ENDINGS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""Last bytes of whole files: a file that was cut off, the most frequent damage, is known by them without decoding."""
TURNED = (5, 6, 7, 8)
"""Orientations of the Exif standard in which height and width change places."""


def load_image(path: ImageFile, *, size_px: int | None = None, cover_px: tuple[int, int] | None = None) -> Tensor:
    """Load an image file, turned upright.

    Args:
        path: File in any format that Pillow reads, or one packed in Parquet.
        size_px: Width and height that the image must have; None takes any.
        cover_px: Height and width to which the image is scaled down and cropped around its centre; None leaves it.

    Returns:
        Float32 in [-1, 1], shape (3, H, W).

    Raises:
        DataError: The file is missing, truncated, no image, of another size, or smaller than ``cover_px``.
    """
    return floats_of(load_bytes(path, size_px=size_px, cover_px=cover_px))


def load_bytes(
    path: ImageFile, *, channels: Literal[1, 3] = 3, size_px: int | None = None, cover_px: tuple[int, int] | None = None
) -> Tensor:
    """Load an image file as it is stored; arguments and errors as of ``load_image``.

    Args:
        path: File in any format that Pillow reads.
        channels: 3 for sRGB, 1 for grey.
        size_px: Width and height that the image must have.
        cover_px: Height and width to which it is scaled down and cropped.

    Returns:
        Uint8, shape (channels, H, W).
    """
    picture = _decode(path, "RGB" if channels == 3 else "L", size_px=size_px, cover_px=cover_px)
    return torch.from_numpy(np.array(picture).reshape(picture.height, picture.width, channels)).permute(2, 0, 1)


def read_size(path: ImageFile) -> tuple[int, int]:
    """Return height and width of an image file from its first and last bytes, without decoding it.

    Of a packed one, what the Parquet file says of it where it does: the picture itself is not read.

    Raises:
        DataError: The file is missing, cut off, or no image. Damage in its middle is found by decoding only.
    """
    if isinstance(path, PackedImage) and path.size_px is not None:
        return path.size_px
    with _readable(path), path.open("rb") as file:
        with Image.open(file) as picture:
            width, height = picture.size
            # Where the orientation is known before decoding; asking a PNG without one for it would decode the picture.
            turned = "exif" in picture.info and picture.getexif().get(ExifTags.Base.Orientation, 1) in TURNED
            kind = picture.format
        ending = ENDINGS.get(kind or "", b"")
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(ending)))
        # Some programs write more behind the end: only decoding tells such a file from one that is cut off.
        if ending and file.read() != ending:
            _decode(path, "RGB", size_px=None, cover_px=None)
    return (width, height) if turned else (height, width)


def thumbnail(path: ImageFile, *, side_px: int) -> bytes:
    """Return a small JPEG of an image file, turned upright, neither side above ``side_px``.

    Raises:
        DataError: The file is missing, truncated, or no image.
    """
    with _readable(path), path.open("rb") as file, Image.open(file) as stored:
        # A JPEG decodes faster at an eighth of its size.
        stored.draft("RGB", (side_px, side_px))
        picture = ImageOps.exif_transpose(stored).convert("RGB")
    picture.thumbnail((side_px, side_px))
    encoded = io.BytesIO()
    picture.save(encoded, format="JPEG", quality=80)
    return encoded.getvalue()


@contextmanager
def _readable(path: ImageFile) -> Iterator[None]:
    """Turn everything that Pillow raises for a damaged file into one error."""
    try:
        yield
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            "An image cannot be read",
            found=f"{path}: {error}",
            expected="a complete PNG, JPEG or WebP file",
            fix="Make or copy the image again, or remove its line from metadata.jsonl.",
        ) from error


def _decode(path: ImageFile, mode: str, *, size_px: int | None, cover_px: tuple[int, int] | None) -> Image.Image:
    with _readable(path), path.open("rb") as file, Image.open(file) as stored:
        picture = ImageOps.exif_transpose(stored).convert(mode)
    if size_px is not None and picture.size != (size_px, size_px):
        raise DataError(
            "An image has another size than the run",
            found=f"{path}: {picture.width} x {picture.height} px",
            expected=f"{size_px} x {size_px} px",
            fix="Set image_size_px to the size of the images, or make images of that size.",
        )
    if cover_px is None:
        return picture
    height, width = cover_px
    if picture.height < height or picture.width < width:
        raise DataError(
            "An image is smaller than the run needs it",
            found=f"{path}: {picture.width} x {picture.height} px",
            expected=f"at least {width} x {height} px: images are never scaled up, it would teach blur",
            fix="Remove its line from metadata.jsonl, or set image_size_px lower.",
        )
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def image_of(bytes_HWC: np.ndarray) -> Tensor:
    """Return sRGB bytes of shape (H, W, 3) as an image in [-1, 1], float32, shape (3, H, W); undoes ``bytes_of``."""
    return floats_of(torch.from_numpy(bytes_HWC).permute(2, 0, 1))


def floats_of(bytes_CHW: Tensor) -> Tensor:
    """Return sRGB bytes as an image in [-1, 1], float32, of the same shape."""
    return bytes_CHW.float().div_(127.5).sub_(1)


def as_floats(image_CHW: Tensor) -> Tensor:
    """Return an image in [-1, 1] that is stored as sRGB bytes or as floats already, which stay as they are."""
    return floats_of(image_CHW) if image_CHW.dtype == torch.uint8 else image_CHW


def bytes_of(image_CHW: Tensor) -> np.ndarray:
    """Return an image in [-1, 1] as sRGB bytes, shape (H, W, 3)."""
    return ((image_CHW.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()


def save_image(path: Path, image_CHW: Tensor) -> None:
    """Save an image in [-1, 1] as a file that appears whole or not at all; the format follows the file name.

    Raises:
        DataError: The file's ending names no image format.
        OutputFolderError: The file cannot be written, or the disk is full.
    """
    image_format = require_format(path)
    encoded = io.BytesIO()
    Image.fromarray(bytes_of(image_CHW)).save(encoded, format=image_format)
    write_file(path, encoded.getvalue())


def png_of(bytes_CHW: Tensor) -> bytes:
    """Return an image of sRGB bytes, shape (3, H, W), as the content of a PNG file, without loss."""
    encoded = io.BytesIO()
    Image.fromarray(bytes_CHW.permute(1, 2, 0).contiguous().cpu().numpy()).save(encoded, format="PNG")
    return encoded.getvalue()


def require_format(path: Path) -> str:
    """Return the image format that a file's ending names, such as "PNG".

    Raises:
        DataError: It names none that can be written.
    """
    known = Image.registered_extensions()
    image_format = known.get(path.suffix.lower())
    if image_format not in Image.SAVE:
        raise DataError(
            "The file's ending names no image format",
            found=str(path),
            expected="an ending such as .png, .jpg or .webp",
            fix="Choose a file name with one of these endings.",
        )
    return image_format


def image_grid(images: Sequence[Tensor], *, columns: int) -> Tensor:
    """Lay images of one size out in rows, two gray pixels between them; shape (3, H, W)."""
    height, width = images[0].shape[-2:]
    rows = -(-len(images) // columns)
    grid = torch.zeros(3, rows * (height + 2) - 2, columns * (width + 2) - 2)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        grid[:, top : top + height, left : left + width] = image
    return grid
