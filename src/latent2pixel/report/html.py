"""One HTML file from a report's content: no script, no other file, nothing fetched."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent2pixel.report.content import CostRow, ReportContent
from latent2pixel.report.page import require_packages, write_page
from latent2pixel.report.plots import loss_plot, score_plot

NOT_MEASURED = "–"  # noqa: RUF001 (an en dash, as tables print a gap)


def write_report(content: ReportContent, path: str | Path) -> Path:
    """Write a report as one self-contained HTML file.

    Args:
        content: What to show.
        path: File to write; it appears complete or not at all, and replaces an older one.

    Returns:
        The path of the file.

    Raises:
        L2PError: matplotlib or jinja2 is not installed, or the file cannot be written.
    """
    require_packages()
    filters: dict[str, Callable[..., str]] = {
        "data_uri": _data_uri,
        "number": number,
        "percent": percent,
        "duration": _duration,
        "milliseconds": _milliseconds,
    }
    return write_page("report.html.j2", Path(path), _context(content), filters=filters)


def _context(content: ReportContent) -> dict[str, Any]:
    return {
        "content": content,
        "share": bar_width,
        "tasks": _task_rows(content),
        "costs": _cost_groups(content.costs),
        "total_seconds": sum(stage.seconds for stage in content.stages),
        "loss_svg": loss_plot(content.loss_curve) if len(content.loss_curve) > 1 else "",
        "score_svg": score_plot(
            content.score_curve, source_score=content.source_score["score"], chance=content.pixel_score["chance"]
        ) if len(content.score_curve) > 1 else "",
    }  # fmt: skip


def _task_rows(content: ReportContent) -> list[dict[str, Any]]:
    """Return the rows of the score table: every task, then all of them."""
    source_tasks, pixel_tasks = content.source_score["tasks"], content.pixel_score["tasks"]
    rows = [
        {"name": task.replace("_", " "), "source": source_tasks[task], "pixel": pixel_tasks[task], "total": False}
        for task in pixel_tasks
        if task in source_tasks
    ]
    return [*rows, {"name": "all tasks", "source": content.source_score, "pixel": content.pixel_score, "total": True}]


@dataclass(frozen=True, kw_only=True)
class _CostLine:
    """One quantity at one size."""

    label: str
    source: str
    pixel: str
    ratio: float
    """Pixel divided by source; below 1 the pixel model is cheaper. NaN where one was not measured."""


def _cost_groups(costs: Sequence[CostRow]) -> list[tuple[int, list[_CostLine]]]:
    """Return (size, lines of the table) for every size that both models were measured at."""
    by_key = {(row.size_px, row.model): row for row in costs}
    groups = []
    for size_px in sorted({row.size_px for row in costs}):
        source, pixel = by_key.get((size_px, "source")), by_key.get((size_px, "pixel"))
        if source and pixel:
            pairs = (
                ("one step", _milliseconds, source.step_ms, pixel.step_ms),
                ("decoding", _milliseconds, source.decode_ms, pixel.decode_ms),
                ("whole picture", _milliseconds, source.image_ms, pixel.image_ms),
                ("peak memory", _megabytes, source.peak_mb, pixel.peak_mb),
            )
            lines = [
                _CostLine(label=label, source=text(a), pixel=text(b), ratio=b / a if a and b else math.nan)
                for label, text, a, b in pairs
            ]
            groups.append((size_px, lines))
    return groups


def _data_uri(image_HWC: NDArray[np.uint8]) -> str:
    """Return a picture as a PNG in a ``data:`` address."""
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals."""
    return NOT_MEASURED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a share in percent, without the sign."""
    return NOT_MEASURED if value is None or math.isnan(value) else f"{100 * value:.0f}"


def bar_width(value: float) -> str:
    """Return a share as a width in percent that a bar can have."""
    return "0" if math.isnan(value) else f"{100 * min(max(value, 0), 1):.1f}"


def _milliseconds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return NOT_MEASURED
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _megabytes(value: float | None) -> str:
    if value is None or math.isnan(value):
        return NOT_MEASURED
    return f"{value / 1000:.2f} GB" if value >= 1000 else f"{value:.0f} MB"


def _duration(seconds: float) -> str:
    """Return a duration as a person says it, such as "45 s", "6 min 50 s", "12 min" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
