"""Token grids of images: whole patches, and no more of them than a transformer has positions for."""

from dataclasses import dataclass

from latent2pixel.errors import GeometryError
from latent2pixel.model.tokens import Grid


@dataclass(frozen=True, kw_only=True)
class PositionLimit:
    """The largest token grid of a transformer, whatever the patch; None: as large as one likes."""

    rows: int | None = None
    """Rows of tokens."""
    columns: int | None = None
    """Columns of tokens."""
    oblong_tokens: int | None = None
    """All tokens of an image that is not square."""

    def allows(self, grid: Grid) -> bool:
        """Tell whether there are positions for all tokens of a grid."""
        rows, columns = grid
        fits = rows <= (self.rows or rows) and columns <= (self.columns or columns)
        return fits and (rows == columns or rows * columns <= (self.oblong_tokens or rows * columns))

    def __str__(self) -> str:
        if self.oblong_tokens is not None:
            return f"{self.oblong_tokens} tokens, or as many rows as columns"
        return "any number of tokens" if self.rows is None else f"{self.rows} x {self.columns} tokens"


def token_grid(size_px: tuple[int, int], *, patch_px: int, limit: PositionLimit) -> Grid:
    """Return the token rows and columns of an image.

    Args:
        size_px: Height and width of the image.
        patch_px: Pixels per token and axis.
        limit: Of the transformer.

    Raises:
        GeometryError: If the image does not divide into whole patches, or has more tokens than there are positions for.
    """
    height, width = size_px
    if min(size_px) <= 0 or height % patch_px or width % patch_px:
        raise GeometryError(
            "The image does not divide into whole patches",
            found=f"{height} x {width} px",
            expected=f"height and width multiples of {patch_px}",
            fix=f"Resize or crop the image to a multiple of {patch_px} px.",
        )
    grid = height // patch_px, width // patch_px
    require_positions(grid, limit)
    return grid


def require_positions(grid: Grid, limit: PositionLimit) -> None:
    """Check that a transformer has positions for all tokens of a grid.

    Raises:
        GeometryError: If not: some classes would take wrong positions and say nothing.
    """
    if not limit.allows(grid):
        raise GeometryError(
            "The image is larger than the source has positions for",
            found=f"{grid[0]} x {grid[1]} tokens",
            expected=f"at most {limit}",
            fix="Make smaller images, or convert with a larger patch where `l2p families --limits` shows one.",
        )
