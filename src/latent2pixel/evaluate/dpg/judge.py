"""What answers the questions: anything that sees pictures, named in the result.

Shape letters: C channels (3, sRGB), H height, W width.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Judge(Protocol):
    """Answers questions about pictures, the same question about the same picture always alike."""

    name: str
    """In the keys of results."""

    def answer(self, images_CHW: Sequence[Tensor], questions: Sequence[str]) -> list[list[str | None]]:
        """Return for each picture of sRGB bytes the answer to each question; None where none was to be had.

        Raises:
            L2PError: The judge cannot go on at all.
        """

    def as_record(self) -> dict[str, Any]:
        """Return what decides its answers, as plain JSON values."""
