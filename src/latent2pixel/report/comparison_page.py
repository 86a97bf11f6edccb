"""The page of two models side by side: scores by task, then pictures, those first on which the verdicts differ."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel.io.images import thumbnail
from latent2pixel.report.html import bar_width, number, percent
from latent2pixel.report.page import require_packages, write_page

PICTURES_OF_A_KIND = 12
"""Pairs shown of each kind of verdict: with four kinds and 8 KB a picture, a page of 800 KB."""
SIDE_PX = 256
"""Longest side of a picture on the page."""
KINDS = (
    (True, False, "Lost", "The source is right, the pixel model is wrong."),
    (False, True, "Gained", "The pixel model is right where the source is wrong."),
    (False, False, "Both wrong", "Neither shows what the prompt asks for."),
    (True, True, "Both right", "Both show it."),
)
"""Verdicts of source and pixel model, and what the page says of them; disagreements first."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A pair of pictures and whether each is right."""

    prompt: str
    seed: int
    source_file: Path
    pixel_file: Path
    source: bool
    pixel: bool


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """Everything that one page shows."""

    record: Mapping[str, Any]
    """What ``evaluation.json`` holds: ``score``, ``tasks``, ``pairs``, ``problems``, ``source``, ``pixel``."""
    verdicts: Sequence[Verdict]
    """All judged pairs; the page shows the first of each kind."""


def write_comparison_page(content: ComparisonPage, path: Path) -> Path:
    """Write the page as one self-contained HTML file and return its path.

    Raises:
        L2PError: matplotlib or jinja2 is not installed, or the file cannot be written.
        DataError: A picture cannot be read any more.
    """
    require_packages()
    context = {
        "content": {"title": "Source and pixel model, side by side"},
        "record": content.record,
        "groups": [_group(content.verdicts, *kind) for kind in KINDS],
        "share": bar_width,
    }
    return write_page("comparison.html.j2", path, context, filters={"number": number, "percent": percent})


def _group(verdicts: Sequence[Verdict], source: bool, pixel: bool, name: str, note: str) -> dict[str, Any]:
    """Return one kind of verdict with its first pictures."""
    found = [verdict for verdict in verdicts if (verdict.source, verdict.pixel) == (source, pixel)]
    shown = [
        {
            "prompt": verdict.prompt,
            "seed": verdict.seed,
            "pictures": [
                ("source", "latent source", _jpeg_uri(verdict.source_file)),
                ("pixel", "pixel model", _jpeg_uri(verdict.pixel_file)),
            ],
        }
        for verdict in found[:PICTURES_OF_A_KIND]
    ]
    return {"name": name, "note": note, "count": len(found), "share": len(found) / len(verdicts), "shown": shown}


def _jpeg_uri(file: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(thumbnail(file, side_px=SIDE_PX)).decode("ascii")
