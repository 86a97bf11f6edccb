"""Positions of image tokens as ids (frame, row, column, ..), which the pipeline makes.

Shape letters: B batch, L tokens, n numbers of an id.
"""

from typing import Any

from torch import Tensor

from latent2pixel.families.base import TokenFamily
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call


class ImageIds(TokenFamily):
    """Base of families whose transformer is told the ids of image tokens apart from those of text."""

    def grid(self, call: Call) -> Grid:
        """Read the grid off the position ids."""
        return grid_of_ids(call["img_ids"])

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Keep the ids of the first rows and columns."""
        return {**call, "img_ids": first_ids(call["img_ids"], self.grid(call), grid)}


def grid_of_ids(ids: Tensor) -> Grid:
    """Return token rows and columns of ids of all image tokens of a sample, (L, n) or (B, L, n)."""
    ids_Ln = ids[0] if ids.ndim == 3 else ids
    rows, columns = (int(places.max() - places.min()) + 1 for places in (ids_Ln[:, 1], ids_Ln[:, 2]))
    return rows, columns


def first_ids(ids: Tensor, whole: Grid, grid: Grid) -> Tensor:
    """Return the ids of the first rows and columns of a whole grid, row by row as they were."""
    rows, columns = grid
    return ids.unflatten(-2, whole)[..., :rows, :columns, :].flatten(-3, -2)
