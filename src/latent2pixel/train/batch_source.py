"""What training asks of its data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class BatchSource(Protocol):
    """Batches in an order that is a function of the step; ``data.batches.Batches`` is one."""

    def over(
        self, steps: range, *, places: Sequence[int]
    ) -> AbstractContextManager[Iterator[Sequence[Mapping[str, Any]]]]:
        """Give one list of items for each step, those at some places of the whole batch, while a block runs."""

    def names(self, step: int) -> list[str]:
        """Return what the images of a step are called."""
