"""Whether a picture fits into memory whole, and in which tiles if not."""

import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from latent2pixel.config.memory_size import format_memory
from latent2pixel.errors import ConfigError
from latent2pixel.io.float_image import PIXEL_BYTES
from latent2pixel.model.head_budget import head_bytes, largest_tile
from latent2pixel.model.head_tiles import tile_axis

IMAGE_COPIES = 12
"""Float32 copies of an image that a stock pipeline holds under guidance beside the head's tensors: sample, both halves
of the batch and their answers, guidance, step, decoding, bytes. More than was measured: benchmarks/large_image.md."""
KERNEL_FACTOR = 1.5
"""What the head takes whole, of its tensors: convolutions have buffers of their own (benchmarks/large_image.md)."""
TILE_COPIES = 12
"""Float32 copies of a tile and its margin beside the head: crop, patches before and behind the lift, answers."""
TILE_FACTOR = 2.0
"""What tiles take, of their tensors: buffers of convolutions, and freed blocks that the C library keeps. At 4096 px in
tiles of 896 px it was 1.4 (dev/LOG.md, 2026-11-26)."""
GUIDED_SAMPLES = 2
"""Samples of one call: with and without the prompt."""


def choose_tile(pipe: Any, size_px: tuple[int, int], *, batch: int, budget_bytes: int | None) -> int | None:
    """Return the tile with which a picture stays within a budget; None: the stock pipeline can make it whole.

    What the trunk takes is not foreseen; see ``require_within``.

    Args:
        pipe: Pixel pipeline, where it will run.
        size_px: Height and width, multiples of the patch.
        batch: Pictures of one call; in tiles they are made one by one.
        budget_bytes: What the process may take in all, on a GPU of its memory; None: what is free.

    Raises:
        ConfigError: If the smallest tile takes more; names the smallest budget that works.
    """
    model, now = pipe.transformer, _now(pipe.transformer.device)
    budget = now + _free(model.device) if budget_bytes is None else budget_bytes
    if whole_bytes(pipe, size_px, batch=batch) <= budget:
        return None

    def taken(tile_px: int) -> int:
        _, end = tile_axis((0, tile_px), size_px=max(size_px), num_levels=len(model.head.enc)).image
        side = min(tile_px + 2 * (end - tile_px), max(size_px))  # a tile inside has that margin on both sides
        bands = (side + tile_px) * size_px[1] * PIXEL_BYTES
        crops = TILE_COPIES * side**2 * PIXEL_BYTES
        return now + int(TILE_FACTOR * (bands + crops + _head_bytes(model, size_px, tile_px, batch=1)))

    return largest_tile(size_px, unit_px=model.config["pixel_patch_size"], budget_bytes=budget, taken=taken)


def whole_bytes(pipe: Any, size_px: tuple[int, int], *, batch: int) -> int:
    """Return what the process will take with the stock pipeline, at most; arguments as of ``choose_tile``."""
    model = pipe.transformer
    image_bytes = size_px[0] * size_px[1] * PIXEL_BYTES
    head = _head_bytes(model, size_px, None, batch=GUIDED_SAMPLES * batch)
    return _now(model.device) + IMAGE_COPIES * batch * image_bytes + int(KERNEL_FACTOR * head)


def require_within(budget_bytes: int | None, device: torch.device, *, before: int) -> None:
    """Check that the trunk has not taken more than the budget.

    Args:
        budget_bytes: What the process may take in all; None: anything.
        device: Where the trunk has run.
        before: What ``peak_bytes`` was before: what loading took is past.

    Raises:
        ConfigError: It has: the trunk sees the whole image, as tokens.
    """
    taken = peak_bytes(device)
    if budget_bytes is not None and taken > max(budget_bytes, before):
        raise ConfigError(
            "The memory budget is too small for the trunk",
            found=format_memory(budget_bytes),
            expected=f"{format_memory(taken)} or more",
            fix=f"Give {format_memory(taken)}, make a smaller image, or use a larger patch.",
        )


def peak_bytes(device: torch.device) -> int:
    """Return the most that the process has taken so far, of memory or of a GPU's; where no Linux tells it, what now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":
        return psutil.Process().memory_info().rss
    # Not getrusage, whose peak starts at the parent's.
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def _now(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return psutil.virtual_memory().available


def _head_bytes(model: Any, size_px: tuple[int, int], tile_px: int | None, *, batch: int) -> int:
    channels = tuple(model.config["head_channels"])
    return head_bytes(
        channels,
        size_px,
        tile_px=tile_px,
        dtype=model.dtype,
        feature_dim=model.head.bottleneck[0].in_channels - channels[-1],
        batch=batch,
        keeps_image=False,
    )
