"""Difficulty levels of the world: which shapes, colours, backgrounds, patterns and counts it holds."""

from dataclasses import dataclass

from latent2pixel.errors import ConfigError

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 165, 70),
    "blue": (55, 95, 225),
    "yellow": (245, 220, 50),
    "purple": (140, 60, 180),
    "orange": (245, 135, 25),
    "pink": (245, 130, 190),
}
"""Object colours as sRGB bytes; at least 86 apart (Euclidean) from each other and from every background."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "gray": (125, 125, 125),
    "black": (18, 18, 18),
    "navy": (20, 28, 78),
}

RADII: dict[int, tuple[float, float]] = {1: (0.16, 0.34), 2: (0.14, 0.20), 3: (0.13, 0.17), 4: (0.12, 0.15)}
"""Range of an object's radius, in image widths, by how many objects share the picture.

0.12 is 7.7 px at 64 px, the smallest picture: there the verifier still reads every shape (``tests/world``).
"""


@dataclass(frozen=True, kw_only=True)
class Level:
    """What one difficulty level contains.

    Every level has all six task types of GenEval; a richer one has more words and so a lower chance baseline.
    """

    name: str
    """Name on the command line."""
    shapes: tuple[str, ...]
    """Shape names, keys of ``render.SHAPES``."""
    colors: tuple[str, ...]
    """Colour names, keys of ``PALETTE``."""
    backgrounds: tuple[str, ...]
    """Background names, keys of ``BACKGROUNDS``."""
    patterns: tuple[str, ...]
    """Surface patterns: "plain" or "striped"."""
    max_objects: int
    """Largest number that the counting task asks for, 2 to 4."""


LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level(
            name="easy",
            shapes=("circle", "square", "triangle"),
            colors=("red", "green", "blue", "yellow"),
            backgrounds=("white", "gray", "black"),
            patterns=("plain",),
            max_objects=3,
        ),
        Level(
            name="medium",
            shapes=("circle", "square", "triangle", "cross"),
            colors=("red", "green", "blue", "yellow", "purple"),
            backgrounds=("white", "gray", "black"),
            patterns=("plain",),
            max_objects=4,
        ),
        Level(
            name="full",
            shapes=("circle", "square", "triangle", "cross", "star", "ring"),
            colors=tuple(PALETTE),
            backgrounds=tuple(BACKGROUNDS),
            patterns=("plain", "striped"),
            max_objects=4,
        ),
    )
}


def require_level(name: str) -> Level:
    """Return the level of that name.

    Raises:
        ConfigError: No such level.
    """
    if name not in LEVELS:
        raise ConfigError(
            "unknown level of the miniature world",
            found=repr(name),
            expected=f"one of {', '.join(LEVELS)}",
            fix="pass one of these names as --level",
        )
    return LEVELS[name]
