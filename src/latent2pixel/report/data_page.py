"""The page of a data set: its funnel, classes, texts and images, with a sheet of pictures."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel.report.html import bar_width, percent
from latent2pixel.report.page import require_packages, write_page
from latent2pixel.report.plots import bars_plot

MAX_ROWS = 12
"""Rows of a table of counts; the rest stands in the last one."""


@dataclass(frozen=True, kw_only=True)
class SheetPicture:
    """One picture of the sheet."""

    caption: str
    """Its prompt."""
    group: str
    """Its class."""
    jpeg: bytes
    """A small copy."""


@dataclass(frozen=True, kw_only=True)
class DataPage:
    """Everything that one page shows."""

    stats: Mapping[str, Any]
    """``DataStats`` as plain data, as ``l2p data stats --json`` prints it."""
    band: tuple[int, int]
    """Characters between which texts are wanted."""
    pictures: Sequence[SheetPicture] = ()
    """Drawn over all classes, unselected."""


def write_data_page(content: DataPage, path: Path) -> Path:
    """Write the page of a data set as one self-contained HTML file and return its path.

    Raises:
        L2PError: matplotlib or jinja2 is not installed, or the file cannot be written.
    """
    require_packages()
    bars = content.stats["texts"]["lengths"]
    context = {
        # What the base template asks for.
        "content": {"title": f"Data set {content.stats['folder']}"},
        "stats": content.stats,
        "band": content.band,
        "pictures": content.pictures,
        "share": bar_width,
        "most": _most,
        "majors": _majors(content.stats["classes"]),
        "lengths_svg": bars_plot(bars, band=content.band, label="characters", name="lengths") if bars else "",
    }
    filters: dict[str, Callable[..., str]] = {
        "percent": percent,
        "precise": _precise,
        "count": "{:,}".format,
        "jpeg_uri": _jpeg_uri,
    }
    return write_page("data.html.j2", path, context, filters=filters)


def _majors(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the major classes with their sub-classes below them."""
    majors: dict[str, dict[str, Any]] = {}
    for row in classes:
        major = majors.setdefault(
            row["major_class"], {"name": row["major_class"], "prompts": 0, "images": 0, "share": 0.0, "subs": []}
        )
        major["subs"].append(row)
        for key in ("prompts", "images", "share"):
            major[key] += row[key]
        if row["target"] is not None:
            major["target"] = major.get("target", 0.0) + row["target"]
    return list(majors.values())


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the first rows of a table of counts."""
    rows = list(counts.items())
    if len(rows) <= MAX_ROWS:
        return rows
    rest = rows[MAX_ROWS - 1 :]
    return [*rows[: MAX_ROWS - 1], (f"{len(rest)} others", sum(count for _, count in rest))]


def _precise(value: float) -> str:
    """Return a share in percent with one decimal, for shares that are compared."""
    return f"{100 * value:.1f}"


def _jpeg_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
