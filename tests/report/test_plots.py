"""Figures of bars and ratios: what is drawn where."""

import re

from latent2pixel.report.plots import ACCENT, REFERENCE, intervals_plot, ratios_plot


def bars_of(svg, color):
    """Left edge and top of every filled shape of a colour, in the order of the figure, y downwards."""
    shapes = re.findall(r'<path d="([^"]*)"[^>]*style="fill: ' + re.escape(color), svg)
    points = [[tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", shape)] for shape in shapes]
    return [(min(x for x, _ in shape), min(y for _, y in shape)) for shape in points]


def test_bars_of_a_group_stand_beside_each_other_in_the_order_of_the_series():
    series = [(REFERENCE, [(0.9, 0.8, 1.0), (0.5, 0.4, 0.6)]), (ACCENT, [(0.3, 0.2, 0.4), (None, None, None)])]
    svg = intervals_plot(["a", "b"], series, label="score", name="test")
    source, pixel = bars_of(svg, "var(--source)"), bars_of(svg, "var(--accent)")
    assert len(source) == len(pixel) == 2
    assert source[0][0] < pixel[0][0] < source[1][0] < pixel[1][0]
    assert source[0][1] < source[1][1]  # a higher score ends higher up
    assert source[0][1] < pixel[0][1]
    assert ">a<" in svg
    assert ">score<" in svg


def test_ratios_hold_their_ticks_and_their_groups():
    svg = ratios_plot(["low", "high"], [(1.0, 0.9, 1.1), (0.2, 0.1, 0.4)], label="ratio", x_label="f", name="test")
    for text in ("low", "high", "ratio", "f", "1", "0.25"):
        assert f">{text}<" in svg, text
    assert ratios_plot(["low"], [(None, None, None)], label="r", x_label="f", name="gap").startswith("<svg")
