"""The detailer head: a small U-Net that turns trunk features and the noisy image into a velocity.

Shape letters: B batch, C image channels, D trunk width, H height, W width, h and w the token grid.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent2pixel.errors import ConfigError
from latent2pixel.model.head_tiles import Offset, encode_tiled, run_tiled

HEAD_CHANNELS: dict[str, tuple[int, ...]] = {
    "1k": (64, 128, 256, 512),
    "4k": (16, 32, 64, 128, 256, 512),
}
"""Channels per level of the published heads: bottleneck at 1/16 (patch 16) and at 1/64 (patch 64)."""

FeatureNorm = Literal["none", "layer_norm"]
FEATURE_NORMS: tuple[str, ...] = ("none", "layer_norm")


def head_channels(head: str | tuple[int, ...]) -> tuple[int, ...]:
    """Return the channels per level of a named head, or the given channels themselves.

    Raises:
        ConfigError: For a name that is not in ``HEAD_CHANNELS`` or channels that are not positive.
    """
    if isinstance(head, str):
        if head not in HEAD_CHANNELS:
            raise ConfigError(
                "There is no detailer head of that name",
                found=repr(head),
                expected=f"one of {', '.join(map(repr, HEAD_CHANNELS))}, or the channels of each level",
                fix="Use head='1k' for patch 16, head='4k' for patch 64, or channels such as (16, 32, 64).",
            )
        return HEAD_CHANNELS[head]
    channels = tuple(head)
    if not channels or any(not isinstance(width, int) or width < 1 for width in channels):
        raise ConfigError(
            "The channels of a detailer head are positive whole numbers",
            found=repr(head),
            expected="one number for each level, such as (64, 128, 256, 512)",
            fix="Give each level of the head its number of channels.",
        )
    return channels


class DetailerHead(nn.Module):
    """U-Net over the full-resolution noisy image, with the trunk's features joined at its bottleneck.

    Args:
        feature_dim: Width D of the trunk.
        channels: Channels of each level; n levels put the bottleneck at 1 / 2**n of the image.
        in_channels: Channels of the image that it reads.
        out_channels: Channels of the image that it makes.
        feature_norm: ``"none"`` feeds raw hidden states, as published; ``"layer_norm"`` scales each token first.

    Source:
        L2P (arXiv 2605.12013) table 3, after DiP (arXiv 2511.18822). The sizes were checked against the released
        Z-Image weights: 28 tensors, 10.085 M parameters at width 3840.
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        channels: tuple[int, ...] = HEAD_CHANNELS["1k"],
        in_channels: int = 3,
        out_channels: int = 3,
        feature_norm: str = "none",
    ) -> None:
        super().__init__()
        channels = head_channels(channels)
        if feature_norm not in FEATURE_NORMS:
            raise ConfigError(
                "There is no feature norm of that name",
                found=repr(feature_norm),
                expected=f"one of {', '.join(map(repr, FEATURE_NORMS))}",
                fix="Use 'none' for the published head.",
            )
        self.feature_norm = feature_norm
        self._tile_px: int | None = None
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable | None = None  # set by ModelMixin.enable_gradient_checkpointing
        self.enc = nn.ModuleList(_conv_silu(low, high) for low, high in pairwise((in_channels, *channels)))
        self.bottleneck = _conv_silu(channels[-1] + feature_dim, channels[-1], kernel=1)
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in channels)
        self.dec = nn.ModuleList(_conv_silu(2 * high, low) for low, high in pairwise((channels[0], *channels)))
        self.out_conv = nn.Conv2d(channels[0], out_channels, 1)

    @property
    def tile_px(self) -> int | None:
        """Height and width of the tiles that it runs in, with the same result; None: the image at once.

        Memory then grows with the tile instead of the image; ``head_budget.tile_for_budget`` chooses one.
        """
        return self._tile_px

    @tile_px.setter
    def tile_px(self, tile_px: int | None) -> None:
        if tile_px is not None and (isinstance(tile_px, bool) or not isinstance(tile_px, int) or tile_px < 1):
            raise ConfigError(
                "The tile of a detailer head is a number of pixels",
                found=repr(tile_px),
                expected="a whole number above 0, or None for no tiles",
                fix=f"Choose a multiple of {2 ** len(self.enc)}, such as {16 * 2 ** len(self.enc)}.",
            )
        self._tile_px = tile_px

    def forward(self, noisy_BCHW: Tensor, feature_BDhw: Tensor) -> Tensor:
        """Predict the network's output image.

        Args:
            noisy_BCHW: Noisy image; height and width multiples of 2**levels.
            feature_BDhw: Last hidden states of the trunk on the token grid; nearest-upsampled to the bottleneck.

        Returns:
            Shape (B, C, H, W), dtype of the noisy image.
        """
        if self.tile_px is not None:
            return run_tiled(self, noisy_BCHW, feature_BDhw, tile_px=self.tile_px)
        skips, hidden_BChw = self.encode(noisy_BCHW)
        return self.decode(skips, hidden_BChw, feature_BDhw)

    def start(self, image_BCHW: Tensor) -> tuple[list[Tensor] | None, Tensor]:
        """Run the down path as ``encode`` does, for ``finish``; in tiles, the skips are not kept."""
        if self.tile_px is not None:
            return None, encode_tiled(self, image_BCHW, tile_px=self.tile_px)
        return self.encode(image_BCHW)

    def finish(self, image_BCHW: Tensor, skips: list[Tensor] | None, hidden: Tensor, *, feature_BDhw: Tensor) -> Tensor:
        """Do the rest of ``forward`` behind ``start``; without skips, each tile makes its own again."""
        if skips is None:
            return self(image_BCHW, feature_BDhw)
        return self.decode(skips, hidden, feature_BDhw)

    def encode(self, image_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the down path.

        Returns:
            The skips of every level, finest first, and the coarsest features (B, channels of the last level, H /
            2**levels, W / 2**levels).
        """
        skips: list[Tensor] = []
        hidden = image_BCHW
        for encode in self.enc:
            skips.append(self._run(encode, hidden))
            hidden = functional.max_pool2d(skips[-1], 2)
        return skips, hidden

    def decode(
        self, skips: list[Tensor], hidden: Tensor, feature_BDhw: Tensor, *, offsets: Sequence[Offset] | None = None
    ) -> Tensor:
        """Join the trunk's features at the bottleneck and run the up path on what ``encode`` returned.

        Args:
            skips: Of every level, finest first.
            hidden: The coarsest features.
            feature_BDhw: Last hidden states of the trunk; nearest-upsampled to the coarsest features.
            offsets: For each level, where its skip lies in what comes up to it, if that is larger.
        """
        if self.feature_norm == "layer_norm":
            feature_BDhw = functional.layer_norm(feature_BDhw.movedim(1, -1), feature_BDhw.shape[1:2]).movedim(-1, 1)
        if feature_BDhw.shape[-2:] != hidden.shape[-2:]:
            feature_BDhw = functional.interpolate(feature_BDhw, size=hidden.shape[-2:], mode="nearest")
        hidden = self.bottleneck(torch.cat([hidden, feature_BDhw.to(hidden.dtype)], dim=1))
        for level in reversed(range(len(skips))):
            hidden = self._run(
                _up_level, self.up[level], self.dec[level], hidden, skips[level], offsets and offsets[level]
            )
        return self.out_conv(hidden)

    def _run(self, stage: Callable[..., Tensor], *arguments: object) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing and self._gradient_checkpointing_func is not None:
            return self._gradient_checkpointing_func(stage, *arguments)
        return stage(*arguments)


def _up_level(up: nn.Module, dec: nn.Module, hidden: Tensor, skip: Tensor, offset: Offset | None) -> Tensor:
    # No method: torch 2.11 loses its object when a compiled head recomputes it.
    hidden = up(functional.interpolate(hidden, scale_factor=2, mode="nearest"))
    if offset is not None:
        top, left = offset
        hidden = hidden[..., top : top + skip.shape[-2], left : left + skip.shape[-1]]
    return dec(torch.cat([hidden, skip], dim=1))


def _conv_silu(in_channels: int, out_channels: int, *, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.SiLU())
