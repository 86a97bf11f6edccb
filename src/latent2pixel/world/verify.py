"""The verifier: what a picture of the world shows, read from its pixels alone, judged by GenEval's rules.

Shape letters: H height, W width, C channels (3, sRGB), N pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latent2pixel.world.captions import RELATIONS, Caption, Request
from latent2pixel.world.levels import PALETTE
from latent2pixel.world.render import SHAPES, STRIPE_DARKNESS, coverage, shape_moments

WORKING_PX = 128
"""Larger pictures are area-averaged to 128 to 255 px first: objects are then 15 px or more and noise averages out."""
FOREGROUND_LEVEL = 40
"""Least difference to the background, in bytes of the most different channel; purple on gray has 65, the least."""
MIN_AREA = 0.004
"""Least area of an object as a share of the picture; the smallest object of the world has 0.019."""
MAX_AREA = 0.45
"""Largest area of an object; the largest of the world has 0.31. A picture full of noise otherwise reads as a square."""
CHROMA_WEIGHT = 0.05
"""Weight of squared chroma against squared luma where the outline matters. JPEG keeps chroma at half resolution, so
it bleeds over edges: with equal weights one shape in eleven was misread at 64 px and quality 50, now one in 280. Not
zero, as green and gray are equally light."""
MIN_CONTRAST = 8
"""Least weighted difference of an object's inside to the background, in bytes; green on gray has 16."""
MIN_OVERLAP = 0.70
"""Least soft intersection over union with the best shape; a true shape has above 0.98, its runner-up below 0.84."""
MAX_COLOR_DISTANCE = 70
"""Largest Euclidean distance in bytes to the nearest palette colour."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
CHROMA = np.array([[-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32).T
"""Rows of the JPEG (JFIF 1.02, BT.601) colour transform: Y, and Cb and Cr as columns."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One object found; positions and lengths in picture widths.

    Shape or colour is None when none fits; without a colour of the palette there is no shape either.
    """

    shape: str | None
    color: str | None
    overlap: float
    x: float
    y: float
    width: float
    height: float


def detect(image_HWC: NDArray[np.uint8]) -> list[Detection]:
    """Find the objects of a picture.

    Args:
        image_HWC: sRGB bytes, square, 64 px or more.

    Returns:
        Detections from the largest to the smallest.
    """
    pixels_HWC = _shrink(np.asarray(image_HWC, np.float32))
    size = pixels_HWC.shape[0]
    background_C = _background(pixels_HWC)
    difference_HW = np.abs(pixels_HWC - background_C).max(-1)
    labels_HW, _ = ndimage.label(difference_HW > FOREGROUND_LEVEL)
    found = []
    for label, box in enumerate(ndimage.find_objects(labels_HW), start=1):
        window = tuple(slice(max(0, side.start - 2), side.stop + 2) for side in box)
        member_HW = labels_HW[window] == label
        if not MIN_AREA <= member_HW.sum() / size**2 <= MAX_AREA:
            continue
        others_HW = (labels_HW[window] > 0) & ~member_HW
        covered_HW = _coverage_of(pixels_HWC[window] - background_C, member_HW, others_HW)
        shape, overlap = _best_shape(covered_HW)
        core_HW = ndimage.binary_erosion(member_HW, iterations=2)
        color = _best_color(pixels_HWC[window][core_HW if core_HW.sum() >= 8 else member_HW])
        rows, columns = np.nonzero(covered_HW > 0.5)
        if not len(rows):
            continue
        detection = Detection(
            # Pure noise is one large component, and would pass for a square if its colour did not matter.
            shape=shape if color else None,
            color=color,
            overlap=overlap,
            x=(window[1].start + (columns.min() + columns.max() + 1) / 2) / size,
            y=(window[0].start + (rows.min() + rows.max() + 1) / 2) / size,
            width=(columns.max() + 1 - columns.min()) / size,
            height=(rows.max() + 1 - rows.min()) / size,
        )
        found.append((covered_HW.sum(), detection))
    return [detection for _, detection in sorted(found, key=lambda pair: -pair[0])]


def verify(image_HWC: NDArray[np.uint8], caption: Caption) -> bool:
    """Return whether a picture shows what its caption demands.

    Source:
        Ghosh et al. 2023, "GenEval", section 3: every requested object is there, with its colour; counting is exact;
        one found pair at least stands in the relation. Other objects and the background are not judged.
    """
    detections = detect(image_HWC)
    matches = [[item for item in detections if _matches(item, request)] for request in caption.requests]
    for request, found in zip(caption.requests, matches, strict=True):
        exact = caption.task == "counting"
        if len(found) < request.count or (exact and len(found) != request.count):
            return False
    if caption.relation is None:
        return True
    return any(_in_relation(a, b, caption.relation) for a in matches[0] for b in matches[1])


def _shrink(pixels_HWC: NDArray) -> NDArray:
    factor = pixels_HWC.shape[0] // WORKING_PX
    if factor < 2:
        return pixels_HWC
    size = pixels_HWC.shape[0] // factor
    crop = pixels_HWC[: size * factor, : size * factor]
    return crop.reshape(size, factor, size, factor, 3).mean((1, 3))


def _background(pixels_HWC: NDArray) -> NDArray:
    """Return the median colour of the two outermost rows and columns, shape (3,)."""
    ring = [pixels_HWC[:2], pixels_HWC[-2:], pixels_HWC[:, :2], pixels_HWC[:, -2:]]
    return np.median(np.concatenate([side.reshape(-1, 3) for side in ring]), axis=0)


def _coverage_of(offset_HWC: NDArray, member_HW: NDArray, others_HW: NDArray) -> NDArray:
    """Return how much of each pixel the object covers: its difference to the background relative to that of its inside.

    The lower quartile of the inside is full coverage, so that the darker stripe of a pattern counts as covered too.
    """
    luma_HW = offset_HWC @ LUMA
    difference_HW = np.sqrt(luma_HW**2 + CHROMA_WEIGHT * ((offset_HWC @ CHROMA) ** 2).sum(-1))
    core_HW = ndimage.binary_erosion(member_HW, iterations=2)
    inside = difference_HW[core_HW if core_HW.sum() >= 8 else member_HW]
    covered_HW = np.clip(difference_HW / max(np.percentile(inside, 25), MIN_CONTRAST), 0, 1)
    # Around the object, differences below a tenth are compression noise, and neighbours are not this object.
    near_HW = ndimage.binary_dilation(member_HW, iterations=2) & ~others_HW
    return np.where(near_HW & (covered_HW > 0.1), covered_HW, 0)


def _best_shape(covered_HW: NDArray) -> tuple[str | None, float]:
    """Return the shape whose rendering, at the same area and centroid, overlaps best, and that overlap."""
    area = covered_HW.sum()
    centroid_x = (covered_HW.sum(0) * (np.arange(covered_HW.shape[1]) + 0.5)).sum() / area
    centroid_y = (covered_HW.sum(1) * (np.arange(covered_HW.shape[0]) + 0.5)).sum() / area
    overlaps = {}
    for shape in SHAPES:
        unit_area, offset_x, offset_y = shape_moments(shape)
        radius = math.sqrt(area / unit_area)
        ideal_HW = coverage(
            shape, centroid_x - radius * offset_x, centroid_y - radius * offset_y, radius, covered_HW.shape
        )
        overlaps[shape] = float(np.minimum(covered_HW, ideal_HW).sum() / np.maximum(covered_HW, ideal_HW).sum())
    best = max(overlaps, key=overlaps.__getitem__)
    return (best if overlaps[best] >= MIN_OVERLAP else None), overlaps[best]


def _best_color(pixels_NC: NDArray) -> str | None:
    """Return the palette colour nearest to the pixels, each allowed the brightness of a stripe."""
    distances = {}
    for name, rgb in PALETTE.items():
        color_C = np.asarray(rgb, np.float32)
        brightness_N = np.clip(pixels_NC @ color_C / (color_C @ color_C), STRIPE_DARKNESS, 1)
        distances[name] = float(np.median(np.linalg.norm(pixels_NC - brightness_N[:, None] * color_C, axis=-1)))
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] <= MAX_COLOR_DISTANCE else None


def _matches(detection: Detection, request: Request) -> bool:
    return detection.shape == request.shape and (request.color is None or detection.color == request.color)


def _in_relation(a: Detection, b: Detection, relation: str) -> bool:
    """Return whether ``a`` stands in the relation to ``b``.

    Source:
        GenEval reference evaluation, ``relative_position``: per axis the centre offset loses a tenth of both extents,
        and what is left, divided by the whole offset's length, must exceed 0.5.
    """
    offset_x, offset_y = a.x - b.x, a.y - b.y
    length = math.hypot(offset_x, offset_y)
    revised_x = math.copysign(max(abs(offset_x) - 0.1 * (a.width + b.width), 0), offset_x)
    revised_y = math.copysign(max(abs(offset_y) - 0.1 * (a.height + b.height), 0), offset_y)
    if length == 0:
        return False
    axis_x, axis_y = RELATIONS[relation]
    return (revised_x * axis_x + revised_y * axis_y) / length > 0.5
