"""Latent maps and tokens: how transformers and pipelines cut a map into patches.

Shape letters: B batch, C image channels, Z channels of a cell, H and W cells, h and w the token grid, d = Z * patch**2
values of a token, p and q a cell's row and column in its token.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int]
"""Token rows and columns."""
TokenOrder = Literal["channel first", "channel last"]
"""A token's values as (channel, row, column) or as (row, column, channel)."""


def patchify(map_BZHW: Tensor, patch: int, order: TokenOrder) -> Tensor:
    """Cut a map into tokens, (B, d, h, w)."""
    if order == "channel first":
        return functional.pixel_unshuffle(map_BZHW, patch)
    cells_BZhpwq = map_BZHW.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return cells_BZhpwq.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def unpatchify(tokens_Bdhw: Tensor, patch: int, order: TokenOrder) -> Tensor:
    """Join tokens to a map, (B, Z, H, W); undoes ``patchify``."""
    if order == "channel first":
        return functional.pixel_shuffle(tokens_Bdhw, patch)
    cells_BpqZhw = tokens_Bdhw.unflatten(1, (patch, patch, -1))
    return cells_BpqZhw.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def places_in_patch(patch: int, *, channels: int = 3) -> Tensor:
    """Return one patch, (1, C, patch, patch), whose values are their own places in the order of ``pixel_unshuffle``."""
    return functional.pixel_shuffle(torch.arange(channels * patch**2).view(1, -1, 1, 1), patch)


def to_sequence(tokens_Bdhw: Tensor) -> Tensor:
    """Return tokens in a row, row by row: (B, h * w, d)."""
    return tokens_Bdhw.flatten(2).transpose(1, 2)


def to_grid(tokens_BLd: Tensor, grid: Grid) -> Tensor:
    """Return a row of tokens on its grid: (B, d, h, w)."""
    return tokens_BLd.transpose(1, 2).unflatten(2, grid)
