"""The report's curves as inline SVG whose colours come from the page, so that they follow light and dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, ACCENT, REFERENCE, GRID = "#010101", "#020202", "#030303", "#040404"
"""Stand-ins that matplotlib draws with; ``_to_page`` puts the page's own colours in their place."""
_PAGE_COLORS = {INK: "var(--soft)", ACCENT: "var(--accent)", REFERENCE: "var(--source)", GRID: "var(--line)"}
FIGURE_INCHES = (5.4, 3.0)
"""Two of them side by side fill the page's width at about their own size: text is then as large as the page's."""
NUM_BINS = 60
"""Points of the smoothed loss: few enough for a calm line, enough to show a spike of one sixtieth of the run."""


def loss_plot(loss_curve: Sequence[tuple[int, float]]) -> str:
    """Return the loss against steps as ``<svg>``: every step faint, means of 60 equal stretches as a line."""
    steps, losses = np.asarray(loss_curve, np.float64).T

    def draw(axes: "Axes") -> None:
        axes.plot(steps, losses, color=ACCENT, linewidth=0.7, alpha=0.25)
        groups = np.array_split(np.arange(len(steps)), min(NUM_BINS, len(steps)))
        axes.plot(
            [steps[group].mean() for group in groups],
            [losses[group].mean() for group in groups],
            color=ACCENT,
            linewidth=2.0,
        )
        # The first steps are far off; the range that matters to the eye is the rest.
        low, high = losses.min(), max(np.percentile(losses, 99), losses[-1])
        margin = 0.06 * (high - low) or 0.01
        axes.set_ylim(low - margin, high + margin)
        axes.set_ylabel("training loss")

    return _svg(draw, name="loss")


def score_plot(score_curve: Sequence[tuple[int, float, float]], *, source_score: float, chance: float) -> str:
    """Return the score against steps as ``<svg>``, with its error band, the source's score and chance."""
    steps, scores, errors = np.asarray(score_curve, np.float64).T

    def draw(axes: "Axes") -> None:
        errors_or_0 = np.nan_to_num(errors)
        axes.axhline(source_score, color=REFERENCE, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.axhline(chance, color=INK, linewidth=1.1, linestyle=(0, (1, 2)))
        axes.fill_between(steps, scores - errors_or_0, scores + errors_or_0, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(steps, scores, color=ACCENT, linewidth=2.0, marker="o", markersize=4)
        for height, text, color in ((source_score, "source", REFERENCE), (chance, "chance", INK)):
            axes.annotate(
                text, (1, height), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                ha="right", color=color,
            )  # fmt: skip
        axes.set_ylim(0, min(1.05, 1.25 * max(source_score, *(scores + errors_or_0), chance)))
        axes.set_ylabel("score")

    return _svg(draw, name="score")


def bars_plot(bars: Sequence[tuple[int, int]], *, band: tuple[int, int], label: str, name: str) -> str:
    """Return a histogram as ``<svg>``, with a band behind it.

    Args:
        bars: First value of each bar, its height; all of one width.
        band: Values between which the band lies.
        label: Of the values.
        name: Of the plot, once a page.
    """
    firsts, heights = np.asarray(bars, np.float64).T
    width = firsts[1] - firsts[0] if len(firsts) > 1 else 1.0

    def draw(axes: "Axes") -> None:
        axes.axvspan(*band, color=REFERENCE, alpha=0.13, linewidth=0)
        axes.bar(firsts, heights, width=0.86 * width, align="edge", color=ACCENT, linewidth=0)
        axes.set_ylabel("texts")
        axes.set_xlim(0, max(firsts[-1] + width, 1.1 * band[1]))

    return _svg(draw, name=name, x_label=label)


Point = tuple[float | None, float | None, float | None]
"""A value and the ends of its interval; what is not known is None."""


def intervals_plot(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[Point]]], *, label: str, name: str
) -> str:
    """Return shares as bars with their intervals as ``<svg>``, those of one group beside each other.

    Args:
        groups: Names below the bars.
        series: Stand-in colour (``ACCENT``, ``REFERENCE``), and a point for each group.
        label: Of the values.
        name: Of the plot, once a page.
    """
    width = 0.8 / len(series)

    def draw(axes: "Axes") -> None:
        for number, (color, points) in enumerate(series):
            values, lows, highs = np.asarray(points, np.float64).T
            places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
            axes.bar(places, np.nan_to_num(values), width=0.9 * width, color=color, linewidth=0)
            axes.vlines(places, lows, highs, color=INK, linewidth=1.4)
        # Shares end at 1, and a bar that touches the frame looks cut off.
        axes.set_ylim(0, 1.04)
        axes.set_ylabel(label)

    return _svg(draw, name=name, x_label="", groups=groups)


def ratios_plot(groups: Sequence[str], points: Sequence[Point], *, label: str, x_label: str, name: str) -> str:
    """Return ratios with their intervals as ``<svg>``, on a logarithmic axis with a line at 1.

    Args:
        groups: Names below the points.
        points: Ratios above 0; others are left out.
        label: Of the ratios.
        x_label: Of the groups.
        name: Of the plot, once a page.
    """

    def draw(axes: "Axes") -> None:
        values, lows, highs = np.asarray(points, np.float64).T
        places = np.arange(len(groups))
        axes.axhline(1, color=REFERENCE, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.vlines(places, lows, highs, color=ACCENT, linewidth=2.0, alpha=0.5)
        axes.plot(places, values, color=ACCENT, linewidth=1.2, marker="o", markersize=5)
        seen = np.concatenate([values, lows, highs])
        seen = seen[np.isfinite(seen) & (seen > 0)]
        # At least from a half to two: without it rounding would fill the figure where both are alike.
        axes.set_yscale("log", base=2)
        axes.set_ylim(min([0.5, *(0.9 * seen)]), max([2.0, *(1.1 * seen)]))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel(label)

    return _svg(draw, name=name, x_label=x_label, groups=groups)


def _svg(
    draw: Callable[["Axes"], None], *, name: str, x_label: str = "training step", groups: Sequence[str] | None = None
) -> str:
    """Return what ``draw`` puts on a pair of axes as ``<svg>``; equal drawings give equal text.

    Args:
        draw: Draws.
        name: Of the plot, once a page.
        x_label: Below the axis.
        groups: Names at 0, 1 and so on, in place of numbers.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Text stays text, in the page's font; a fixed salt keeps the ids the same in every run.
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.5, "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_xlabel(x_label)
        if groups is None:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        else:
            axes.set_xticks(range(len(groups)), groups)
        if axes.get_yscale() == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, colors=INK)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(INK)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    return _to_page(text.getvalue(), name=name)


def _to_page(svg: str, *, name: str) -> str:
    """Turn matplotlib's SVG document into an element of the page.

    HTML needs neither the XML head nor namespaces, ids must not clash with those of another plot, and matplotlib's own
    ``<style>`` would apply to the whole page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns|xmlns:xlink|version|width|height)="[^"]*"', "", svg, count=5)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for stand_in, page_color in _PAGE_COLORS.items():
        svg = svg.replace(stand_in, page_color)
    return svg.replace("<svg", '<svg role="img" stroke-linejoin="round"', 1)
