"""Pictures that lie as bytes in the rows of Parquet files, read as if each were a file of its own."""

import io
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent2pixel.errors import DataError, L2PError

if TYPE_CHECKING:
    import pyarrow

PACKED = ".parquet"
"""Ending of the files."""
BATCH_ROWS = 1000
"""Records read at a time: some hundred KB."""


@dataclass(frozen=True, kw_only=True)
class PackedImage:
    """One picture in a Parquet file, in a column as ``datasets.Image`` stores it; behaves as the path of a file."""

    path: Path
    """The Parquet file."""
    row: int
    """From 0."""
    column: str = "image"
    size_px: tuple[int, int] | None = None
    """Height and width, if the file says so: else the picture is read for it, and its row group with it."""

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"{self.path.name}#{self.row}"

    def __str__(self) -> str:
        return f"{self.path}#{self.row}" + ("" if self.column == "image" else f"/{self.column}")

    def read_bytes(self) -> bytes:
        """Return the picture's file.

        Raises:
            OSError: The Parquet file is missing or damaged, or the row holds no bytes.
        """
        import pyarrow

        try:
            group, offset = _place(self.path, self.row)
            stored = _group(self.path, group, self.column)[offset].get("bytes")
        except (pyarrow.ArrowException, IndexError) as error:
            raise OSError(f"{self}: {error}") from error
        if stored is None or not stored.is_valid:
            raise OSError(f"{self}: no bytes of a picture")
        return stored.as_buffer().to_pybytes()

    def open(self, _mode: str = "rb") -> io.BytesIO:
        """Return the picture's file, opened for reading."""
        return io.BytesIO(self.read_bytes())


ImageFile = Path | PackedImage
"""Where a picture lies."""


def packed_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder and of its sub-folders, in order."""
    return sorted({*folder.glob(f"*{PACKED}"), *folder.glob(f"[!.]*/*{PACKED}")})


def packed_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a Parquet file, without fields that hold nothing; a picture is ``{"path": name}`` here.

    Raises:
        DataError: The file cannot be read.
        L2PError: pyarrow is not installed.
    """
    parquet = _parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            columns = []
            for field in file.schema_arrow:
                if not pyarrow.types.is_nested(field.type):
                    columns.append(field.name)
                elif pyarrow.types.is_struct(field.type) and {"bytes", "path"} <= {part.name for part in field.type}:
                    columns.append(f"{field.name}.path")
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                for record in batch.to_pylist():
                    yield {key: value for key, value in record.items() if value is not None}
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            "A Parquet file cannot be read",
            found=f"{path}: {error}",
            expected="a whole Parquet file, such as `l2p data pack` writes",
            fix="Pack or download it again.",
        ) from error


def _place(path: Path, row: int) -> tuple[int, int]:
    """Return the row group of a row, and the row's number in it."""
    firsts = _first_rows(path)
    if not 0 <= row < firsts[-1]:
        raise IndexError(f"the file has {firsts[-1]} rows")
    group = bisect_right(firsts, row) - 1
    return group, row - firsts[group]


@lru_cache(maxsize=1024)
def _first_rows(path: Path) -> list[int]:
    """Return the first row of each row group, and the number of all rows."""
    footer = _footer(path)
    counts = (footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    return list(accumulate(counts, initial=0))


# Footers, not open files: they may be shared by threads and by forked worker processes.
@lru_cache(maxsize=1024)
def _footer(path: Path) -> Any:
    return _parquet().read_metadata(path)


# One, for neighbours that are read one after the other; training reads at random.
@lru_cache(maxsize=1)
def _group(path: Path, group: int, column: str) -> "pyarrow.ChunkedArray":
    # Without pre_buffer, which hands one read to a pool of threads: several times the time of the read itself.
    with _parquet().ParquetFile(path, metadata=_footer(path), pre_buffer=False) as file:
        return file.read_row_group(group, columns=[column], use_threads=False).column(column)


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise L2PError(
            "Parquet files need a package that is not installed",
            found=str(error),
            expected="pyarrow",
            fix='Install it with `pip install "latent2pixel[data]"`.',
        ) from error
    return parquet
