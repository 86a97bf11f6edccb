"""Rendering: a scene as pixels at any resolution, antialiased from signed distances.

Shape letters: H height, W width, C channels (3, sRGB), E polygon edges.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from latent2pixel.errors import GeometryError
from latent2pixel.world.levels import BACKGROUNDS, PALETTE
from latent2pixel.world.scenes import Scene

MIN_RESOLUTION_PX = 64
MAX_RESOLUTION_PX = 4096
STRIPE_PERIOD = 0.55
"""Distance between stripes in object radii: three to four stripes across an object."""
STRIPE_DARKNESS = 0.55
"""Brightness of the dark stripe relative to the object's colour."""


def _regular_star(num_points: int, inner: float) -> list[tuple[float, float]]:
    corners = []
    for k in range(2 * num_points):
        angle = math.pi * k / num_points - math.pi / 2
        radius = 1.0 if k % 2 == 0 else inner
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


_ARM = 0.33
POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
    "cross": [
        (-_ARM, -0.95), (_ARM, -0.95), (_ARM, -_ARM), (0.95, -_ARM), (0.95, _ARM), (_ARM, _ARM),
        (_ARM, 0.95), (-_ARM, 0.95), (-_ARM, _ARM), (-0.95, _ARM), (-0.95, -_ARM), (-_ARM, -_ARM),
    ],
    "star": _regular_star(5, 0.45),
}  # fmt: skip
"""Corners in object radii, y down, clockwise on the screen."""

SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")


def signed_distance(shape: str, x_HW: NDArray, y_HW: NDArray) -> NDArray:
    """Return the signed distance to a shape of radius one at the origin, negative inside.

    Args:
        shape: One of ``SHAPES``.
        x_HW: Points to the right, in object radii.
        y_HW: Points downwards, in object radii.

    Returns:
        Distance in object radii, shape (H, W).

    Source:
        Quilez, "2D distance functions", circle, annulus and polygon.
    """
    if shape == "circle":
        return np.hypot(x_HW, y_HW) - 0.92
    if shape == "ring":
        return np.abs(np.hypot(x_HW, y_HW) - 0.70) - 0.25
    corners = np.asarray(POLYGONS[shape], x_HW.dtype)
    squared = np.full(x_HW.shape, np.inf, x_HW.dtype)
    inside = np.zeros(x_HW.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        dx, dy = bx - ax, by - ay
        share = np.clip(((x_HW - ax) * dx + (y_HW - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        squared = np.minimum(squared, (x_HW - ax - share * dx) ** 2 + (y_HW - ay - share * dy) ** 2)
        if dy:
            crosses = (ay > y_HW) != (by > y_HW)
            inside ^= crosses & (x_HW < ax + (y_HW - ay) * dx / dy)
    return np.where(inside, -1, 1) * np.sqrt(squared)


def coverage(shape: str, center_x_px: float, center_y_px: float, radius_px: float, size: tuple[int, int]) -> NDArray:
    """Return how much of each pixel a shape covers.

    Args:
        shape: One of ``SHAPES``.
        center_x_px: Centre to the right of the left edge.
        center_y_px: Centre below the top edge.
        radius_px: Radius of the shape.
        size: (height, width) of the result in pixels.

    Returns:
        Float32 coverage in [0, 1], shape (H, W), accurate to a few percent at edges.
    """
    x_W = (np.arange(size[1], dtype=np.float32) + 0.5 - center_x_px) / radius_px
    y_H = (np.arange(size[0], dtype=np.float32) + 0.5 - center_y_px) / radius_px
    x_HW, y_HW = np.broadcast_arrays(x_W[None], y_H[:, None])
    return np.clip(0.5 - signed_distance(shape, x_HW, y_HW) * radius_px, 0, 1).astype(np.float32)


@cache
def shape_moments(shape: str) -> tuple[float, float, float]:
    """Return (area, centroid x, centroid y) of a shape of radius one, by quadrature on a 512 x 512 grid."""
    pixels = coverage(shape, 256.0, 256.0, 200.0, (512, 512)).astype(np.float64)
    grid = (np.arange(512) + 0.5 - 256.0) / 200.0
    total = pixels.sum()
    return total / 200.0**2, float((pixels.sum(0) * grid).sum() / total), float((pixels.sum(1) * grid).sum() / total)


def render(scene: Scene, resolution_px: int) -> NDArray[np.uint8]:
    """Render a scene as a square picture.

    Args:
        scene: What to draw.
        resolution_px: Width and height, 64 to 4096.

    Returns:
        sRGB bytes, shape (H, W, 3).

    Raises:
        GeometryError: The resolution is out of range.
    """
    if not MIN_RESOLUTION_PX <= resolution_px <= MAX_RESOLUTION_PX:
        raise GeometryError(
            "the miniature world cannot be rendered at this resolution",
            found=f"{resolution_px} px",
            expected=f"{MIN_RESOLUTION_PX} to {MAX_RESOLUTION_PX} px",
            fix="choose a resolution in that range",
        )
    image_HWC = np.empty((resolution_px, resolution_px, 3), np.float32)
    image_HWC[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        reach_px = math.ceil(item.radius * resolution_px * 1.05) + 2
        center_x, center_y = item.x * resolution_px, item.y * resolution_px
        left, top = max(0, int(center_x) - reach_px), max(0, int(center_y) - reach_px)
        window = image_HWC[top : int(center_y) + reach_px + 1, left : int(center_x) + reach_px + 1]
        x_px, y_px, radius_px = center_x - left, center_y - top, item.radius * resolution_px
        alpha_HW1 = coverage(item.shape, x_px, y_px, radius_px, window.shape[:2])[..., None]
        color_C = np.asarray(PALETTE[item.color], np.float32)
        surface = color_C
        if item.pattern == "striped":
            surface = color_C * _stripes(x_px, y_px, radius_px, window.shape[:2])[..., None]
        window += alpha_HW1 * (surface - window)
    return np.clip(image_HWC + 0.5, 0, 255).astype(np.uint8)


def _stripes(center_x_px: float, center_y_px: float, radius_px: float, size: tuple[int, int]) -> NDArray:
    """Return the brightness factor of diagonal stripes, antialiased over one pixel, shape (H, W)."""
    x_W = (np.arange(size[1], dtype=np.float32) + 0.5 - center_x_px) / radius_px
    y_H = (np.arange(size[0], dtype=np.float32) + 0.5 - center_y_px) / radius_px
    across = (x_W[None] + y_H[:, None]) / math.sqrt(2)
    phase = np.abs((across / STRIPE_PERIOD) % 1.0 - 0.5) - 0.25
    light = np.clip(phase * STRIPE_PERIOD * radius_px + 0.5, 0, 1)
    return STRIPE_DARKNESS + (1 - STRIPE_DARKNESS) * light
