"""Batches as large as the memory allows: begun with a guess, halved whenever it was too much."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from latent2pixel.data.buckets import Size
from latent2pixel.errors import GeometryError

Job = TypeVar("Job")
Images = list[Any]

MAX_BATCH = 64
"""More images at a time make small ones no faster."""
FIRST_PIXELS = 8 * 1024**2
"""Pixels of the first batch on an accelerator: eight images of 1024 px."""
FIRST_PIXELS_CPU = 64 * 64**2
"""The same on a CPU, which larger batches make no faster; and there no error says that memory runs out."""


class BatchFit:
    """How many images of each size are made at a time.

    Args:
        batch_size: That many, whatever happens; None finds it.
        on_accelerator: Whether the images are made on one.
    """

    def __init__(self, batch_size: int | None = None, *, on_accelerator: bool) -> None:
        self._fixed = batch_size
        self._first_pixels = FIRST_PIXELS if on_accelerator else FIRST_PIXELS_CPU
        self._found: dict[Size, int] = {}

    def batch_size(self, size_px: Size) -> int:
        """Return how many images of a size are made at a time, as far as is known."""
        first = max(1, min(MAX_BATCH, self._first_pixels // (size_px[0] * size_px[1])))
        return self._fixed or self._found.get(size_px, first)

    def batches(
        self, jobs: Sequence[Job], size_px: Size, make: Callable[[list[Job]], Images]
    ) -> Iterator[tuple[list[Job], Images]]:
        """Make images of one size, and yield them batch by batch.

        Args:
            jobs: What to make, in this order.
            size_px: Height and width of all of them.
            make: Makes a batch.

        Raises:
            GeometryError: One image, or a batch of the size that was asked for, does not fit into memory.
        """
        done = 0
        while done < len(jobs):
            batch = list(jobs[done : done + self.batch_size(size_px)])
            try:
                images = make(batch)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self._fixed or len(batch) == 1:
                    raise _too_large(size_px, len(batch), found=str(error), fixed=bool(self._fixed)) from error
                self._found[size_px] = len(batch) // 2
                # Not here: the error holds all tensors of the calls that it came through.
                images = None
            if images is None:
                clear_device_cache(garbage_collection=True)
                continue
            yield batch, images
            done += len(batch)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says so; those of CPUs and of some kernels are plain runtime errors."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)


def _too_large(size_px: Size, batch_size: int, *, found: str, fixed: bool) -> GeometryError:
    return GeometryError(
        f"{batch_size} image{'s' if batch_size > 1 else ''} at a time do not fit into memory",
        found=f"{size_px[1]} x {size_px[0]} px: {found.splitlines()[0] if found else 'out of memory'}",
        expected="free memory for the pipeline and one batch",
        fix="Use --batch-size auto, which finds a smaller one."
        if fixed and batch_size > 1
        else "Make smaller images, or take a device with more memory.",
    )
