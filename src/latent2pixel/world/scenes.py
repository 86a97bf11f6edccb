"""Scenes: a caption made concrete, with a place, size and colour for every object."""

import math
import random
from dataclasses import dataclass

from latent2pixel.world.captions import RELATIONS, Caption, Request, Split, draw_caption
from latent2pixel.world.levels import RADII, Level

EDGE_MARGIN = 0.03
"""Free space to the image edge, in image widths (1.9 px at 64 px): keeps the border pure background."""
GAP = 0.07
"""Least free space between two objects' circumscribed circles, in image widths (4.5 px at 64 px): survives a blur."""
RELATION_OFFSET = 0.36
"""Least centre distance along a relation's axis, in image widths."""
RELATION_SLOPE = 0.5
"""Largest distance across the axis as a share of the one along it; GenEval needs along / norm > 0.5."""
PLACEMENT_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object; lengths in image widths, x to the right, y down."""

    shape: str
    color: str
    pattern: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture as data: it renders at any resolution."""

    caption: Caption
    background: str
    objects: tuple[SceneObject, ...]


def draw_scene(level: Level, split: Split, *, generator: random.Random, task: str | None = None) -> Scene:
    """Draw a caption and a scene that shows it."""
    return compose_scene(level, draw_caption(level, split, generator=generator, task=task), generator=generator)


def compose_scene(level: Level, caption: Caption, *, generator: random.Random) -> Scene:
    """Draw a scene that a caption describes: what the words leave open is random, nothing else is added.

    Args:
        level: Level of the world that the caption is from.
        caption: What the scene must show.
        generator: Source of all randomness.
    """
    requests = [request for request in caption.requests for _ in range(request.count)]
    num = len(requests)
    shared_color = generator.choice(level.colors) if num > 1 and len(caption.requests) == 1 else None
    taken: list[str] = []
    looks = []
    for request in requests:
        color = request.color or shared_color or generator.choice([c for c in level.colors if c not in taken])
        taken.append(color)
        looks.append((request.shape, color, request.pattern or level.patterns[0]))
    places = _place(caption, [_radius_range(request, num) for request in requests], generator)
    return Scene(
        caption=caption,
        background=caption.background or generator.choice(level.backgrounds),
        objects=tuple(
            SceneObject(shape=shape, color=color, pattern=pattern, x=x, y=y, radius=radius)
            for (shape, color, pattern), (x, y, radius) in zip(looks, places, strict=True)
        ),
    )


def _radius_range(request: Request, num: int) -> tuple[float, float]:
    low, high = RADII[num]
    if request.size == "small":
        return low, low + 0.35 * (high - low)
    if request.size == "large":
        return low + 0.65 * (high - low), high
    return low, high


def _place(
    caption: Caption, radius_ranges: list[tuple[float, float]], generator: random.Random
) -> list[tuple[float, float, float]]:
    """Draw (x, y, radius) for every object by rejection, without overlap and obeying the caption's relation."""
    for _ in range(PLACEMENT_TRIES):
        places = []
        for low, high in radius_ranges:
            radius = generator.uniform(low, high)
            free = radius + EDGE_MARGIN
            places.append((generator.uniform(free, 1 - free), generator.uniform(free, 1 - free), radius))
        if _apart(places) and _obeys(caption.relation, places):
            return places
    raise RuntimeError(f"no free place found for {len(radius_ranges)} objects: RADII and GAP do not fit together")


def _apart(places: list[tuple[float, float, float]]) -> bool:
    return all(
        math.hypot(xa - xb, ya - yb) >= ra + rb + GAP
        for i, (xa, ya, ra) in enumerate(places)
        for xb, yb, rb in places[:i]
    )


def _obeys(relation: str | None, places: list[tuple[float, float, float]]) -> bool:
    if relation is None:
        return True
    (xa, ya, _), (xb, yb, _) = places
    axis_x, axis_y = RELATIONS[relation]
    along = (xa - xb) * axis_x + (ya - yb) * axis_y
    across = abs((xa - xb) * axis_y) + abs((ya - yb) * axis_x)
    return along >= RELATION_OFFSET and across <= RELATION_SLOPE * along
