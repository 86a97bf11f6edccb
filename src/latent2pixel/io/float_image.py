"""An image of floats in a file, read and written by rows: as large as the disk allows, a few rows in memory.

Shape letters: C channels (3), H and W height and width of the image, R rows read or written at once.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latent2pixel.errors import StateError

CHANNELS = 3
VALUE = np.dtype("<f4")
"""Little-endian float32, on every machine."""
PIXEL_BYTES = CHANNELS * VALUE.itemsize


class FloatImage:
    """A file of float32 values, channel by channel and row by row.

    Read and written with plain calls, never mapped: mapped pages count as memory of the process, and a full disk would
    end it without a word.

    Args:
        path: The file; it need not be there before it is written.
        height: In pixels.
        width: In pixels.
    """

    def __init__(self, path: Path, *, height: int, width: int) -> None:
        self.path, self.height, self.width = path, height, width

    @property
    def num_bytes(self) -> int:
        """What the whole file takes."""
        return self.height * self.width * PIXEL_BYTES

    def read_rows(self, start: int, end: int) -> Tensor:
        """Return rows from ``start`` up to ``end``, (C, R, W).

        Raises:
            StateError: The file is shorter than the image.
        """
        rows_CRW = np.empty((CHANNELS, end - start, self.width), VALUE)
        with self.path.open("rb") as file:
            for channel, rows_RW in enumerate(rows_CRW):
                file.seek(self._place(channel, start))
                if file.readinto(rows_RW.data.cast("B")) != rows_RW.nbytes:
                    raise StateError(
                        "An unfinished image is not complete",
                        found=f"{self.path}: {self.path.stat().st_size} bytes",
                        expected=f"{self.num_bytes} bytes",
                        fix="Remove its folder; the image is then begun anew.",
                    )
        return torch.from_numpy(rows_CRW.astype(np.float32, copy=False))

    def write_rows(self, start: int, rows_CRW: Tensor) -> None:
        """Write rows from ``start`` on; the file is made if it is missing."""
        for channel, rows_RW in enumerate(rows_CRW.cpu().numpy()):
            self.write_channel_rows(channel, start, rows_RW)

    def write_channel_rows(self, channel: int, start: int, rows_RW: np.ndarray, *, step: int = 1) -> None:
        """Write rows of one channel.

        Args:
            channel: Which.
            start: The first row.
            rows_RW: Their values.
            step: Distance of one row to the next.
        """
        self.path.touch()
        with self.path.open("r+b") as file:
            if step == 1:
                file.seek(self._place(channel, start))
                file.write(np.ascontiguousarray(rows_RW, VALUE).data)
                return
            for number, row_W in enumerate(rows_RW):
                file.seek(self._place(channel, start + number * step))
                file.write(np.ascontiguousarray(row_W, VALUE).data)

    def _place(self, channel: int, row: int) -> int:
        return (channel * self.height + row) * self.width * VALUE.itemsize
