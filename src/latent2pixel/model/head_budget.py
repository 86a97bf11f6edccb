"""What the detailer head takes in memory, from the sizes of its layers, and the tile that fits a budget."""

from collections.abc import Callable, Iterator, Sequence

import torch

from latent2pixel.config.memory_size import format_memory
from latent2pixel.errors import ConfigError, GeometryError
from latent2pixel.model.head_tiles import TileAxis, tile_axis, windows


def tile_for_budget(
    channels: Sequence[int],
    size_px: tuple[int, int],
    *,
    budget_bytes: int,
    dtype: torch.dtype,
    feature_dim: int,
    out_channels: int = 3,
    batch: int = 1,
    beside_bytes: int = 0,
) -> int | None:
    """Choose the largest tile with which a head stays within a budget, without gradients.

    Args:
        channels: Channels per level of the head.
        size_px: Height and width of the image, multiples of ``2**levels``.
        budget_bytes: What may be taken beside the head's weights and inputs.
        dtype: Of the head.
        feature_dim: Width of the trunk as the head reads it.
        out_channels: Channels of the image that it makes.
        batch: Images of one call; tiles are run one at a time, without tiles they are run at once.
        beside_bytes: What of the budget others take.

    Returns:
        Height and width of the tile, a multiple of ``2**levels``, or None where the whole image fits. Of the tiles with
        which the image has as many rows of tiles, the smallest.

    Raises:
        ConfigError: If the smallest tile takes more; names the smallest budget that works.
        GeometryError: If the size is no multiple of ``2**levels``.
    """
    unit = 2 ** len(channels)
    if any(size < unit or size % unit for size in size_px):
        raise GeometryError(
            "The head's coarsest cells do not divide the image",
            found=f"{size_px[0]} x {size_px[1]} px",
            expected=f"height and width multiples of {unit} px",
            fix=f"Choose multiples of {unit} px.",
        )

    def taken(tile_px: int | None) -> int:
        return beside_bytes + head_bytes(
            channels, size_px, tile_px=tile_px, dtype=dtype, feature_dim=feature_dim,
            out_channels=out_channels, batch=batch,
        )  # fmt: skip

    if taken(None) <= budget_bytes:
        return None
    return largest_tile(size_px, unit_px=unit, budget_bytes=budget_bytes, taken=taken)


def largest_tile(size_px: tuple[int, int], *, unit_px: int, budget_bytes: int, taken: Callable[[int], int]) -> int:
    """Choose the largest tile that stays within a budget; of those with as many rows of tiles, the smallest.

    Args:
        size_px: Height and width of the image, multiples of ``unit_px``.
        unit_px: What a tile is a multiple of.
        budget_bytes: What may be taken.
        taken: What is, with a tile of so many pixels in height and width.

    Raises:
        ConfigError: If the smallest tile takes more; names the smallest budget that works.
    """
    num_units = max(size_px) // unit_px
    for num_tiles in range(1, num_units + 1):
        tile_px = -(-num_units // num_tiles) * unit_px
        if taken(tile_px) <= budget_bytes:
            return tile_px
    raise ConfigError(
        "The memory budget is too small, even for the smallest tiles",
        found=f"{format_memory(budget_bytes)}, for {size_px[0]} x {size_px[1]} px",
        expected=f"{format_memory(taken(unit_px))} or more",
        fix=f"Give {format_memory(taken(unit_px))}, or make a smaller image.",
    )


def head_bytes(
    channels: Sequence[int],
    size_px: tuple[int, int],
    *,
    tile_px: int | None,
    dtype: torch.dtype,
    feature_dim: int,
    out_channels: int = 3,
    batch: int = 1,
    keeps_image: bool = True,
) -> int:
    """Return the peak of a head's tensors in a call without gradients, beside its weights and inputs.

    The layers' activations alone: the image is given, and what a kernel needs inside itself is not in it.

    Args:
        channels: Channels per level of the head.
        size_px: Height and width of the image.
        tile_px: Height and width of a tile, or None.
        dtype: Of the head.
        feature_dim: Width of the trunk as the head reads it.
        out_channels: Channels of the image that it makes.
        batch: Images of one call.
        keeps_image: Whether finished tiles are put together in memory.
    """
    rows, columns = (_largest(size, tile_px, num_levels=len(channels)) for size in size_px)
    most = max(_moments(tuple(channels), rows, columns, feature_dim=feature_dim, out_channels=out_channels))
    kept = keeps_image * batch * out_channels * size_px[0] * size_px[1]
    values = batch * most if tile_px is None else most + kept
    return values * dtype.itemsize


def _largest(size: int, tile_px: int | None, *, num_levels: int) -> TileAxis:
    """Return the tile that reads the most along an axis."""
    axes = [tile_axis(window, size_px=size, num_levels=num_levels) for window in windows(size, tile_px or size)]
    return max(axes, key=lambda axis: (_length(axis.image), _length(axis.window)))


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def _moments(
    channels: tuple[int, ...], rows: TileAxis, columns: TileAxis, *, feature_dim: int, out_channels: int
) -> Iterator[int]:
    """Give the values that are alive at each step of a tile where they can be most."""
    num_levels = len(channels)
    read = _length(rows.image) * _length(columns.image)
    kept = [_length(rows.skips[level]) * _length(columns.skips[level]) for level in range(num_levels)]
    held = before = 0
    for level, width in enumerate(channels):
        whole = width * (read >> 2 * level)
        yield held + before + 2 * whole  # a convolution's output and its activation
        skip = width * kept[level]
        copied = 0 if kept[level] == read >> 2 * level else skip
        # Where the skip is the whole map, the map itself is held.
        yield held + before + whole + copied + whole // 4
        held, before = held + skip, whole // 4
    cells = _length(rows.coarse) * _length(columns.coarse)
    joined = channels[-1] + feature_dim
    # Features are picked (or upsampled) before they are joined.
    inputs = joined * cells
    yield held + inputs + (joined + 2 * channels[-1]) * cells
    hidden = channels[-1] * cells
    outputs = [channels[0], *channels]
    for level in reversed(range(num_levels)):
        width, low = channels[level], outputs[level]
        up = 4 * width * _length(rows.hidden(level)) * _length(columns.hidden(level))
        yield held + inputs + hidden + 2 * up
        # What came up, joined with the skip, convolved, and activated.
        yield held + inputs + hidden + up + 2 * (width + low) * kept[level]
        hidden = low * kept[level]
    window = _length(rows.window) * _length(columns.window)
    yield held + inputs + hidden + out_channels * (kept[0] + window)
