"""Where one box lies relative to another."""

import math

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; y grows downwards."""

SLACK = 0.1
"""Share of both boxes' extents by which their centres may differ without meaning anything (the program's default)."""
NO_OFFSET_PX = 1e-3
"""Below this on both axes nothing is left of the offset; it also keeps a division by zero out."""
MIN_SHARE = 0.5
"""Share of the offset's length along an axis that makes a relation: 60 degrees to both sides, so two may hold."""


def relations(box: Box, other: Box) -> set[str]:
    """Return the relations in which a box stands to another: any of "left of", "right of", "above", "below".

    Source:
        GenEval (arXiv 2310.11513), appendix; ``relative_position`` of its program, which divides what is left of the
        offset by the length of the whole offset.
    """
    offset = [(box[axis] + box[axis + 2] - other[axis] - other[axis + 2]) / 2 for axis in (0, 1)]
    left = []
    for axis in (0, 1):
        extents = abs(box[axis + 2] - box[axis]) + abs(other[axis + 2] - other[axis])
        left.append(math.copysign(max(abs(offset[axis]) - SLACK * extents, 0), offset[axis]))
    if all(abs(value) < NO_OFFSET_PX for value in left):
        return set()
    x, y = (value / math.hypot(*offset) for value in left)
    found = {
        "left of": x < -MIN_SHARE,
        "right of": x > MIN_SHARE,
        "above": y < -MIN_SHARE,
        "below": y > MIN_SHARE,
    }
    return {name for name, holds in found.items() if holds}
