"""Images as tensors in [-1, 1].

Shape letters: C channels (3, sRGB), H height, W width.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from latent2pixel.errors import DataError
from latent2pixel.io.new_folder import write_file


def load_image(path: Path, *, size_px: int | None = None) -> Tensor:
    """Load an image file.

    Args:
        path: File in any format that Pillow reads.
        size_px: Width and height that the image must have; None takes any.

    Returns:
        Float32 in [-1, 1], shape (3, H, W).

    Raises:
        DataError: The file is missing, truncated, no image, or of another size.
    """
    try:
        with Image.open(path) as file:
            bytes_HWC = np.array(file.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            "An image cannot be read",
            found=f"{path}: {error}",
            expected="a complete PNG, JPEG or WebP file",
            fix="Make or copy the image again, or remove its line from metadata.jsonl.",
        ) from error
    if size_px is not None and bytes_HWC.shape[:2] != (size_px, size_px):
        raise DataError(
            "An image has another size than the run",
            found=f"{path}: {bytes_HWC.shape[1]} x {bytes_HWC.shape[0]} px",
            expected=f"{size_px} x {size_px} px",
            fix="Set image_size_px to the size of the images, or make images of that size.",
        )
    return image_of(bytes_HWC)


def image_of(bytes_HWC: np.ndarray) -> Tensor:
    """Return sRGB bytes of shape (H, W, 3) as an image in [-1, 1], float32, shape (3, H, W); undoes ``bytes_of``."""
    return torch.from_numpy(bytes_HWC).permute(2, 0, 1).float() / 127.5 - 1


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
