"""Curves for a terminal."""

import statistics
from collections.abc import Sequence

import plotille

WIDTH, HEIGHT = 56, 10
"""In characters; with the labels it fits a terminal of 80."""


def loss_curve(losses: Sequence[tuple[int, float]]) -> str:
    """Return a picture of a run's losses in characters, each point the mean of a stretch of steps.

    Args:
        losses: Step and loss, in order; at least two.
    """
    size = -(-len(losses) // WIDTH)
    stretches = [losses[start : start + size] for start in range(0, len(losses), size)]
    figure = plotille.Figure()
    figure.width, figure.height, figure.origin = WIDTH, HEIGHT, False
    figure.x_label, figure.y_label = "step", "loss"
    figure.register_label_formatter(float, _short)
    figure.set_x_limits(min_=0, max_=losses[-1][0])
    figure.plot(
        [statistics.fmean(step for step, _ in stretch) for stretch in stretches],
        [statistics.fmean(loss for _, loss in stretch) for stretch in stretches],
    )
    return str(figure.show())


def _short(value: float, chars: int, **_: object) -> str:
    return f"{value:.4g}".ljust(chars)
