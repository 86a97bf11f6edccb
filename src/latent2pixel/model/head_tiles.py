"""The detailer head tile by tile: the same result from a bounded part of the image at a time.

Shape letters: B batch, C image channels, D trunk width, H height, W width, h and w the token grid; K and L rows and
columns of the head's coarsest cells.

What a pixel of the head's output hangs on is finite: convolutions reach one cell of their level, a pooled cell is made
of 2 x 2 aligned ones, an upsampled one comes from one. ``tile_axis`` walks that way back from a tile to the image. Only
at the image's own borders does a tile end without a margin, so only there do the convolutions pad with the zeros of the
untiled head; what they pad elsewhere is cut off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from latent2pixel.model.head import DetailerHead

Span = tuple[int, int]
"""The first cell, and the one behind the last."""
Offset = tuple[int, int]
"""Rows and columns from the corner of a larger map."""


@dataclass(frozen=True, kw_only=True)
class TileAxis:
    """What a tile reads along one axis, each span in the cells of its level."""

    window: Span
    """The pixels of the output that it makes."""
    image: Span
    """The pixels of the image that it reads: whole coarsest cells."""
    skips: tuple[Span, ...]
    """What the up path needs of each level's skip, finest first."""
    coarse: Span
    """What it needs of the coarsest cells."""

    def hidden(self, level: int) -> Span:
        """Return what the up path holds when it comes up to a level."""
        return self.coarse if level + 1 == len(self.skips) else self.skips[level + 1]


def tile_axis(window: Span, *, size_px: int, num_levels: int) -> TileAxis:
    """Derive what a tile reads from the layout of the head.

    Args:
        window: Pixels of the output, anywhere in the image.
        size_px: Of the image along this axis, a multiple of ``2**num_levels``.
        num_levels: Levels of the head.
    """
    skips: list[Span] = []
    needed = window
    for level in range(num_levels):
        limit = size_px >> level
        skips.append(_grown(needed, 1, limit))  # read by the convolution behind the joined skip
        low, high = _grown(needed, 2, limit)  # and the one behind the upsampling reads one cell more
        needed = low // 2, -(-high // 2)
    return TileAxis(window=window, image=_image_span(needed, skips, size_px=size_px), skips=tuple(skips), coarse=needed)


def _image_span(coarse: Span, skips: Sequence[Span | None], *, size_px: int) -> Span:
    """Return the whole coarsest cells of the image behind some coarsest features, and skips where they are needed."""
    needed, num_levels = coarse, len(skips)
    for level, skip in reversed(list(enumerate(skips))):
        low, high = 2 * needed[0], 2 * needed[1]
        if skip is not None:
            low, high = min(low, skip[0]), max(high, skip[1])
        needed = _grown((low, high), 1, size_px >> level)
    # Pooling pairs cells from the first on: a crop that starts inside a coarsest cell would pair others.
    return needed[0] >> num_levels << num_levels, -(-needed[1] >> num_levels) << num_levels


def _grown(span: Span, margin: int, limit: int) -> Span:
    return max(0, span[0] - margin), min(limit, span[1] + margin)


def windows(size: int, tile: int) -> list[Span]:
    """Cut an axis into windows of a tile's size; the last one may be smaller."""
    return [(low, min(low + tile, size)) for low in range(0, size, tile)]


@torch.compiler.disable
def run_tiled(head: "DetailerHead", noisy_BCHW: Tensor, feature_BDhw: Tensor, *, tile_px: int) -> Tensor:
    """Do what the head's ``forward`` does, one image and one tile at a time.

    With gradients, each tile's activations are computed again in the backward pass: one tile's are kept at most.
    A compiled head runs its tiles uncompiled: as one graph they would be unrolled.

    Args:
        head: The head.
        noisy_BCHW: Noisy image; height and width multiples of 2**levels.
        feature_BDhw: Last hidden states of the trunk.
        tile_px: Height and width of a tile, any.

    Returns:
        Shape (B, C, H, W).
    """
    (height, width), num_levels = noisy_BCHW.shape[-2:], len(head.enc)
    row_axes, column_axes = (
        [tile_axis(window, size_px=size, num_levels=num_levels) for window in windows(size, tile_px)]
        for size in (height, width)
    )
    token_rows_K = nearest_tokens(feature_BDhw.shape[-2], height >> num_levels)
    token_columns_L = nearest_tokens(feature_BDhw.shape[-1], width >> num_levels)
    out_BCHW = None
    for image in range(len(noisy_BCHW)):
        for rows in row_axes:
            for columns in column_axes:
                tile_1Chw = _recomputed(head, run_tile)(
                    head,
                    noisy_BCHW[image : image + 1, :, slice(*rows.image), slice(*columns.image)],
                    feature_BDhw[image : image + 1],
                    (token_rows_K[slice(*rows.coarse)], token_columns_L[slice(*columns.coarse)]),
                    (rows, columns),
                )
                if out_BCHW is None:
                    out_BCHW = tile_1Chw.new_empty(len(noisy_BCHW), tile_1Chw.shape[1], height, width)
                out_BCHW[image : image + 1, :, slice(*rows.window), slice(*columns.window)] = tile_1Chw
    assert out_BCHW is not None
    return out_BCHW


def run_tile(
    head: "DetailerHead",
    crop_BChw: Tensor,
    feature_BDhw: Tensor,
    tokens: tuple[list[int], list[int]],
    axes: tuple[TileAxis, TileAxis],
) -> Tensor:
    """Make one tile of the head's output.

    Args:
        head: The head.
        crop_BChw: The part ``image`` of the noisy image.
        feature_BDhw: All hidden states.
        tokens: Row and column of the token behind each needed coarsest cell.
        axes: The tile's rows and columns.

    Returns:
        The part ``window`` of the output.
    """
    rows, columns = axes
    skips: list[Tensor] = []
    hidden = crop_BChw
    for level, encode in enumerate(head.enc):
        skip, hidden = _down(encode, hidden, level, axes)
        skips.append(skip)
    level = len(skips)
    hidden = _cut(hidden, (rows.image[0] >> level, columns.image[0] >> level), (rows.coarse, columns.coarse))
    offsets = [
        (rows.skips[at][0] - 2 * rows.hidden(at)[0], columns.skips[at][0] - 2 * columns.hidden(at)[0])
        for at in range(level)
    ]
    out_BChw = head.decode(skips, hidden, _tokens_behind(feature_BDhw, *tokens), offsets=offsets)
    return _cut(out_BChw, (rows.skips[0][0], columns.skips[0][0]), (rows.window, columns.window))


def _down(encode: nn.Module, hidden: Tensor, level: int, axes: tuple[TileAxis, TileAxis]) -> tuple[Tensor, Tensor]:
    """Run a level of the down path; return what is needed of its skip, and the next level's input."""
    rows, columns = axes
    whole = encode(hidden)
    corner = rows.image[0] >> level, columns.image[0] >> level
    return _cut(whole, corner, (rows.skips[level], columns.skips[level])), functional.max_pool2d(whole, 2)


def _cut(map_BChw: Tensor, corner: Offset, spans: tuple[Span, Span]) -> Tensor:
    """Return the cells of two spans of a map that starts at a corner."""
    (top, bottom), (left, right) = spans
    cut = map_BChw[..., top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]
    # A view would keep the whole map alive.
    return map_BChw if cut.shape == map_BChw.shape else cut.clone()


def _tokens_behind(feature_BDhw: Tensor, rows_K: list[int], columns_L: list[int]) -> Tensor:
    """Return the features of the tokens behind some cells, (B, D, K, L)."""
    first_row, first_column = rows_K[0], columns_L[0]
    near = feature_BDhw[..., first_row : rows_K[-1] + 1, first_column : columns_L[-1] + 1]
    if near.shape[-2:] == (len(rows_K), len(columns_L)):
        return near
    row_places, column_places = (
        torch.tensor([place - first for place in places], device=near.device)
        for places, first in ((rows_K, first_row), (columns_L, first_column))
    )
    return near.index_select(-2, row_places).index_select(-1, column_places)


def nearest_tokens(num_tokens: int, num_cells: int) -> list[int]:
    """Return which token along an axis torch's nearest upsampling takes for each cell, in its own float32.

    Computed beside torch, so that a memory estimate with tensors without data can follow.
    """
    places = np.arange(num_cells, dtype=np.float32) * (np.float32(num_tokens) / np.float32(num_cells))
    return np.minimum(np.floor(places), num_tokens - 1).astype(int).tolist()


@torch.compiler.disable
def encode_tiled(head: "DetailerHead", image_BCHW: Tensor, *, tile_px: int) -> Tensor:
    """Return the coarsest features of the down path as ``encode`` does, one image and one tile at a time.

    Args:
        head: The head.
        image_BCHW: Image; height and width multiples of 2**levels.
        tile_px: Height and width of a tile; at least one coarsest cell is made at a time.
    """
    num_levels = len(head.enc)
    height, width = (size >> num_levels for size in image_BCHW.shape[-2:])
    tile = max(1, tile_px >> num_levels)
    coarse_BCKL = None
    for image in range(len(image_BCHW)):
        for rows in windows(height, tile):
            for columns in windows(width, tile):
                part = _recomputed(head, _coarse_tile)(head, image_BCHW[image : image + 1], (rows, columns))
                if coarse_BCKL is None:
                    coarse_BCKL = part.new_empty(len(image_BCHW), part.shape[1], height, width)
                coarse_BCKL[image : image + 1, :, slice(*rows), slice(*columns)] = part
    assert coarse_BCKL is not None
    return coarse_BCKL


def _coarse_tile(head: "DetailerHead", image_BCHW: Tensor, spans: tuple[Span, Span]) -> Tensor:
    """Make the coarsest features of two spans."""
    (top, bottom), (left, right) = (
        coarse_image_span(span, size_px=size, num_levels=len(head.enc))
        for span, size in zip(spans, image_BCHW.shape[-2:], strict=True)
    )
    return encode_crop(head, image_BCHW[..., top:bottom, left:right], (top, left), spans)


def coarse_image_span(span: Span, *, size_px: int, num_levels: int) -> Span:
    """Return the pixels along an axis that some of the coarsest cells of the down path hang on."""
    return _image_span(span, [None] * num_levels, size_px=size_px)


def encode_crop(head: "DetailerHead", crop_BChw: Tensor, corner: Offset, spans: tuple[Span, Span]) -> Tensor:
    """Return the coarsest features of the down path in two spans.

    Args:
        head: The head.
        crop_BChw: The part of the image that they hang on: ``coarse_image_span`` of both.
        corner: Where it lies in the image.
        spans: Rows and columns of coarsest cells.
    """
    hidden, num_levels = crop_BChw, len(head.enc)
    for encode in head.enc:
        hidden = functional.max_pool2d(encode(hidden), 2)
    return _cut(hidden, (corner[0] >> num_levels, corner[1] >> num_levels), spans)


def _recomputed(head: "DetailerHead", stage: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a stage that keeps its inputs alone for the backward pass."""
    if not torch.is_grad_enabled():
        return stage
    own = head._gradient_checkpointing_func if head.gradient_checkpointing else None

    def run(*arguments: object) -> Tensor:
        return checkpoint(stage, *arguments, use_reentrant=False) if own is None else own(stage, *arguments)

    return run
