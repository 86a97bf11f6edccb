"""What ends a run early: a loss that is no number, a loss that grows without bound, a signal."""

import math
import signal
import statistics
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from latent2pixel.errors import TrainingError

WINDOW = 50
"""Steps of a mean loss: single losses differ by the noise level, by a factor of 10 and more."""


class Guard:
    """Watches the losses of a run.

    Args:
        factor: How many times the least mean of a window the mean may become; 0: any.
        losses: Of the steps that the run has done, in order.
    """

    def __init__(self, factor: float, losses: Iterable[float]) -> None:
        self._factor, self._least = factor, math.inf
        self._window: deque[float] = deque(maxlen=WINDOW)
        for loss in losses:
            self._see(loss)

    def check(self, loss: float, gradient_norm: float, *, step: int, images: Sequence[str], kept: Path | None) -> None:
        """Look at one step before its gradient is applied.

        Args:
            loss: Of the step.
            gradient_norm: Before it is limited.
            step: Counted from 1.
            images: Of the batch, by name.
            kept: Newest checkpoint, none if there is none yet.

        Raises:
            TrainingError: Loss or gradient are no numbers, or the loss has grown without bound.
        """
        found = f"loss {loss:.4g}, gradient norm {gradient_norm:.4g} at step {step}, images {', '.join(images)}"
        going_on = "there is no checkpoint yet"
        if kept is not None:
            going_on = f"`l2p convert OUT --merge {kept}` makes the model to go on from"
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise TrainingError(
                "The training has met a loss or gradient that is no number",
                found=found,
                expected="finite values",
                fix=f"Look at these images, or lower learning_rate in a new run folder; {going_on}.",
            )
        mean = self._see(loss)
        if self._factor and mean is not None and mean > self._factor * self._least:
            raise TrainingError(
                "The training diverges",
                found=f"{found}; mean {mean:.4g} over {WINDOW} steps",
                expected=f"at most divergence_factor = {self._factor:g} times the least mean, {self._least:.4g}",
                fix=f"Lower learning_rate in a new run folder; {going_on}.",
            )

    def _see(self, loss: float) -> float | None:
        """Return the mean of the last window, none before there is one."""
        self._window.append(loss)
        if len(self._window) < WINDOW:
            return None
        mean = statistics.fmean(self._window)
        self._least = min(self._least, mean)
        return mean


@dataclass
class StopRequest:
    """Whether the process has been asked to stop."""

    asked: bool = False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note SIGTERM instead of dying of it, as Slurm and containers send it before they kill.

    Yields:
        What tells whether the signal has come. Outside the main thread it never does: signals have no say there.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        request.asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
