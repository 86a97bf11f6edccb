"""Image sizes as users write them, and what a pixel model can make of them."""

import re
from typing import Any

import torch

from latent2pixel.errors import GeometryError


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of a size such as ``1024`` or, width first, ``1536x1024``.

    Raises:
        GeometryError: If it is none.
    """
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if match is None:
        raise GeometryError(
            "That is no image size",
            found=repr(text),
            expected="width and height in pixels",
            fix="Write 1024, or 1536x1024 for 1536 px in width and 1024 px in height.",
        )
    width, height = int(match[1]), int(match[2] or match[1])
    return height, width


def require_size(model: Any, size_px: tuple[int, int]) -> None:
    """Check that a pixel model can make images of a size.

    Args:
        model: Pixel transformer.
        size_px: Height and width.

    Raises:
        GeometryError: It is no multiple of the patch (names the nearest that is), or its tokens have no positions.
    """
    patch = model.config["pixel_patch_size"]
    if min(size_px) <= 0 or any(size % patch for size in size_px):
        nearest = [max(patch, round(size / patch) * patch) for size in size_px]
        raise GeometryError(
            "The image size does not divide into whole patches",
            found=f"{size_px[1]} x {size_px[0]} px",
            expected=f"multiples of {patch} px",
            fix=f"Choose {nearest[1]}x{nearest[0]}.",
        )
    model.grid_of(torch.empty(1, 3, *size_px, device="meta"))
