"""A pixel transformer on an image that is never whole in memory: tile by tile into tokens, the trunk, tile by tile out.

The trunk sees tokens only, and they are few whatever the size of a patch. In front of it every layer works on one patch
(and the head's down path on a patch and a margin), behind it the head on a tile and a margin. So the image may lie on
the disk, and the result is that of ``forward``.

Shape letters: B batch, C image channels, D trunk width, d values of a latent token, H and W the image in pixels, R and
W the rows of it that are in memory, h and w the token grid, Z channels of a latent cell.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent2pixel.flow import velocity_from_clean
from latent2pixel.io.float_image import FloatImage
from latent2pixel.model.head_tiles import (
    Span,
    coarse_image_span,
    encode_crop,
    nearest_tokens,
    run_tile,
    tile_axis,
    windows,
)
from latent2pixel.model.lift import LiftedInput, joined_features


@dataclass(frozen=True, kw_only=True)
class Entered:
    """An image as the trunk takes it."""

    embedded_1Dhw: Tensor
    """What the input projection makes of its patches."""
    sigma_1: Tensor
    """The pixels' noise level; what a model without lift makes of its clock, and does not need."""
    lifted_sigma_1: Tensor | None = None
    """With a lift: the noise level of the latent tokens."""
    tokens_1dhw: Tensor | None = None
    """With a lift: the noisy latent tokens, float32."""


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What the trunk made of an image, for each sample of its call."""

    feature_BDhw: Tensor
    """As the head reads it."""
    sigma_1: Tensor
    """The pixels' noise level."""
    tokens_Bdhw: Tensor | None = None
    """With a lift: the clean latent tokens."""


class TiledForward:
    """The steps of a pixel transformer's ``forward``, without gradients, for one image in a file.

    Args:
        model: Pixel transformer.
        size_px: Height and width of the image, multiples of the patch.
        tile_px: Height and width of a tile, a multiple of the patch.
    """

    def __init__(self, model: Any, *, size_px: tuple[int, int], tile_px: int) -> None:
        self.model, self.size_px = model, size_px
        self.patch, self.num_levels = model.config["pixel_patch_size"], len(model.head.enc)
        self.grid = size_px[0] // self.patch, size_px[1] // self.patch
        self.row_windows, self.column_windows = (windows(size, tile_px) for size in size_px)
        self._token_rows, self._token_columns = (
            nearest_tokens(tokens, size >> self.num_levels) for tokens, size in zip(self.grid, size_px, strict=True)
        )

    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return the noise level behind a clock that is the same for all samples, (1,)."""
        return self.model.sigma_told(timestep_B, self.grid).reshape(-1)[:1].to(self.model.device)

    @torch.no_grad()
    def enter(self, image: FloatImage, sigma_1: Tensor) -> Entered:
        """Project the image's patches, and with a lift turn them into latent tokens first.

        Args:
            image: At noise level sigma.
            sigma_1: As ``sigma`` returns it.
        """
        embedded, tokens, lifted_sigma_1 = [], [], None
        for rows in self.row_windows:
            start, end = self._rows_to_enter(rows)
            band_1CRW = image.read_rows(start, end)[None].to(self.model.device)
            for columns in self.column_windows:
                window = rows, columns
                tile_1Chw = _crop(band_1CRW, start, window)
                if self.model.config["lift_config"]:
                    lifted = self._lifted(tile_1Chw, band_1CRW, start, window, sigma_1)
                    tile_1Chw, lifted_sigma_1 = lifted.image_BCHW, lifted.sigma_B
                    tokens.append((window, lifted.tokens_Bdhw))
                embedded.append((window, self._embedded(tile_1Chw)))
        return Entered(
            embedded_1Dhw=self._joined(embedded),
            sigma_1=sigma_1,
            lifted_sigma_1=lifted_sigma_1,
            tokens_1dhw=self._joined(tokens) if tokens else None,
        )

    @torch.no_grad()
    def carry(self, entered: Entered, conditioning: Mapping[str, Any], *, batch: int) -> Carried:
        """Run the trunk.

        Args:
            entered: The image.
            conditioning: The other arguments of the trunk's ``forward``, its clock among them.
            batch: Samples of that call, all of them of this image.
        """
        model, call = self.model, self.model.call_of_trunk(conditioning, self.grid)
        if entered.lifted_sigma_1 is not None:
            told_1 = model.trunk.told(entered.lifted_sigma_1, self.grid[0] * self.grid[1])
            call[model.trunk.timestep_argument] = told_1.expand(batch)
        map_1ZHW = model.trunk.untokens(entered.embedded_1Dhw)
        with _takes_embedded(model):
            carried_BVhw = model.run_trunk(map_1ZHW.expand(batch, -1, -1, -1), self.grid, call)
        if entered.lifted_sigma_1 is None:
            return Carried(feature_BDhw=carried_BVhw, sigma_1=entered.sigma_1)
        assert entered.tokens_1dhw is not None
        tokens_Bdhw, feature_BDhw = model.clean_tokens(carried_BVhw, entered.tokens_1dhw, entered.lifted_sigma_1)
        joined_BDhw = joined_features(feature_BDhw, tokens_Bdhw)
        return Carried(feature_BDhw=joined_BDhw, sigma_1=entered.sigma_1, tokens_Bdhw=tokens_Bdhw)

    def rows_to_leave(self, rows: Span) -> Span:
        """Return the rows of the image that a row of tiles reads."""
        return tile_axis(rows, size_px=self.size_px[0], num_levels=self.num_levels).image

    @torch.no_grad()
    def leave(self, band_1CRW: Tensor, start: int, window: tuple[Span, Span], carried: Carried) -> Tensor:
        """Return one tile of what ``forward`` returns, (B, C, rows, columns), float32.

        Args:
            band_1CRW: Rows of the image, at least ``rows_to_leave``, on the model's device.
            start: The first of them.
            window: Rows and columns of the tile.
            carried: What the trunk made of the image.
        """
        model = self.model
        rows, columns = (
            tile_axis(span, size_px=size, num_levels=self.num_levels)
            for span, size in zip(window, self.size_px, strict=True)
        )
        crop_1Chw = _crop(band_1CRW, start, (rows.image, columns.image))
        seen_1Chw = (
            crop_1Chw if carried.tokens_Bdhw is None else model.lift.seen_by_head(crop_1Chw, carried.sigma_1)
        ).to(model.dtype)
        tokens = self._token_rows[slice(*rows.coarse)], self._token_columns[slice(*columns.coarse)]
        # One by one: two samples at once would need a tile half as large.
        made_BChw = torch.cat(
            [
                run_tile(model.head, seen_1Chw, feature_1Dhw, tokens, (rows, columns)).float()
                for feature_1Dhw in carried.feature_BDhw.split(1)
            ]
        )
        if carried.tokens_Bdhw is None:
            return made_BChw
        noisy_1Chw = _crop(band_1CRW, start, window)
        batch = len(carried.tokens_Bdhw)
        noisy_BChw, sigma_B = noisy_1Chw.expand(batch, -1, -1, -1), carried.sigma_1.expand(batch)
        tile_tokens_Bdhw = _crop(carried.tokens_Bdhw, 0, self._in_tokens(window))
        clean_BChw = model.lift.leave(noisy_BChw, sigma_B, tile_tokens_Bdhw) + made_BChw
        return model.trunk.sign * velocity_from_clean(noisy_BChw, clean_BChw, sigma_B)

    def _rows_to_enter(self, rows: Span) -> Span:
        if not self.model.config["lift_config"]:
            return rows
        return coarse_image_span(self._in_cells(rows), size_px=self.size_px[0], num_levels=self.num_levels)

    def _lifted(
        self, tile_1Chw: Tensor, band_1CRW: Tensor, start: int, window: tuple[Span, Span], sigma_1: Tensor
    ) -> LiftedInput:
        """Return a tile as a lifted model's trunk sees it."""
        model, (rows, columns) = self.model, window
        cells = self._in_cells(rows), self._in_cells(columns)
        seen_rows, seen_columns = (
            coarse_image_span(span, size_px=size, num_levels=self.num_levels)
            for span, size in zip(cells, self.size_px, strict=True)
        )
        crop_1Chw = _crop(band_1CRW, start, (seen_rows, seen_columns))
        seen_1Chw = model.lift.seen_by_head(crop_1Chw, sigma_1).to(model.dtype)
        coarse_1Chw = encode_crop(model.head, seen_1Chw, (seen_rows[0], seen_columns[0]), cells)
        grid = (rows[1] - rows[0]) // self.patch, (columns[1] - columns[0]) // self.patch
        correction_1dhw = model.lift.stem(functional.adaptive_avg_pool2d(coarse_1Chw, grid)).float()
        return model.lift.enter(tile_1Chw, sigma_1, correction_Bdhw=correction_1dhw)

    def _embedded(self, tile_1Chw: Tensor) -> Tensor:
        """Run the trunk's own input projection on a tile, (1, D, h, w)."""
        trunk, projection = self.model.trunk, _projection(self.model)
        map_1ZHW = functional.pixel_unshuffle(tile_1Chw.to(self.model.dtype), self.model.factor)
        if _fold(self.model) > 1:
            return projection(map_1ZHW)
        tokens_1dhw = trunk.tokens(map_1ZHW)
        if _is_convolution(projection):
            return projection(tokens_1dhw)
        return projection(tokens_1dhw.movedim(1, -1)).movedim(-1, 1)

    def _joined(self, parts: list[tuple[tuple[Span, Span], Tensor]]) -> Tensor:
        """Put tiles of tokens together, (1, .., h, w)."""
        first = parts[0][1]
        whole = first.new_empty(*first.shape[:2], *self.grid)
        for window, part in parts:
            rows, columns = self._in_tokens(window)
            whole[..., slice(*rows), slice(*columns)] = part
        return whole

    def _in_tokens(self, window: tuple[Span, Span]) -> tuple[Span, Span]:
        rows, columns = ((low // self.patch, high // self.patch) for low, high in window)
        return rows, columns

    def _in_cells(self, span: Span) -> Span:
        return span[0] >> self.num_levels, span[1] >> self.num_levels


class _Embedded(nn.Module):
    """Stands in for an input projection whose work is done: its input is its output, laid out as pixels would be."""

    def __init__(self, *, fold: int) -> None:
        super().__init__()
        self.fold = fold

    def forward(self, embedded: Tensor) -> Tensor:
        """Return the embedded tokens; a convolution over patches gets them as a map, and folds it."""
        return embedded if self.fold == 1 else functional.pixel_unshuffle(embedded, self.fold)


@contextmanager
def _takes_embedded(model: Any) -> Iterator[None]:
    """Let a transformer take patches that are embedded already."""
    projection = _projection(model)
    parent, _, last = model.trunk.input_projections[0].rpartition(".")
    owner = model.get_submodule(parent)
    owner.register_module(last, _Embedded(fold=_fold(model)))
    try:
        yield
    finally:
        owner.register_module(last, projection)


def _projection(model: Any) -> Any:
    (name,) = model.trunk.input_projections  # every family has one
    return model.get_submodule(name)


def _fold(model: Any) -> int:
    """Return how many cells an axis the input projection itself joins to a token: a convolution may, a matrix not."""
    projection = _projection(model)
    return projection.kernel_size[0] if _is_convolution(projection) else 1


def _is_convolution(projection: Any) -> bool:
    return projection.weight.ndim > 2


def _crop(band_BCRW: Tensor, start: int, window: tuple[Span, Span]) -> Tensor:
    """Return a window of an image of which some rows are at hand, from ``start`` on."""
    (top, bottom), (left, right) = window
    return band_BCRW[..., top - start : bottom - start, left:right]
