"""The page of two models side by side, or of one alone: pictures first, those where they differ before others."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel.io.images import read_size, thumbnail
from latent2pixel.report.comparison_numbers import (
    distance_rows,
    facts_of,
    meanings_of,
    ratio_rows,
    scores_svg,
    spectrum_svg,
)
from latent2pixel.report.html import bar_width, number, percent
from latent2pixel.report.page import require_packages, write_page

PICTURES_OF_A_KIND = 12
"""Pairs shown of each kind: with four kinds and 8 KB a picture, a page of 800 KB."""
SIDE_PX = 256
"""Longest side of a picture on the page."""
SMALL_PX = 128
"""Pictures up to this side are shown with hard pixels, not blurred up."""
SIDES = {"source": "latent source", "pixel": "pixel model", "model": "the model"}
"""Sides and their names on the page."""


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """The pictures of one prompt and seed, one of each side, and what is known of them."""

    prompt: str
    seed: int
    files: Mapping[str, Path]
    """By side, such as "source" and "pixel"."""
    scores: Mapping[str, float]
    """By side, in [0, 1]; empty without a judge."""
    reasons: Mapping[str, str]
    """By side, why a score is not 1; empty texts where the judge does not tell."""
    distance: float | None = None
    """Between the two pictures, as measured by what the record names; None for one picture alone."""


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """Everything that one page shows."""

    record: Mapping[str, Any]
    """What ``evaluation.json`` holds; of several runs, that of all of them."""
    pairs: Sequence[ShownPair]
    """All that are in a number; the page shows some of each kind."""


def write_comparison_page(content: ComparisonPage, path: Path) -> Path:
    """Write the page as one self-contained HTML file and return its path.

    Raises:
        L2PError: matplotlib or jinja2 is not installed, or the file cannot be written.
        DataError: A picture cannot be read any more.
    """
    require_packages()
    record = content.record
    sides = {side: name for side, name in SIDES.items() if side in record}
    title = "Source and pixel model, side by side" if "pixel" in sides else "A model and its judge"
    filters = {"number": number, "percent": percent, "significant": _significant}
    if "runs" in record:
        runs = {"content": {"title": title}, "record": record, "sides": sides}
        return write_page("comparison_runs.html.j2", path, runs, filters=filters)
    comparison = record["comparison"]
    context: dict[str, Any] = {
        "content": {"title": title},
        "record": record,
        "sides": sides,
        "groups": _groups(content.pairs, comparison),
        "share": bar_width,
        "scores_svg": scores_svg(record["tasks"], list(sides)) if record["tasks"] else "",
        "spectrum_svg": spectrum_svg(comparison["results"]["spectrum"]) if comparison else "",
        "ratios": ratio_rows(comparison["results"]) if comparison else [],
        "facts": facts_of(record, list(sides)),
        "meanings": meanings_of(comparison["results"]) if comparison else [],
        "distances": distance_rows(comparison["results"]) if comparison else [],
    }
    return write_page("comparison.html.j2", path, context, filters=filters)


def _groups(pairs: Sequence[ShownPair], comparison: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the galleries: where verdicts differ, then by distance; of one model alone wrong ones, then right ones."""
    groups = []
    if pairs and "model" in pairs[0].files:
        ordered = sorted(pairs, key=lambda pair: pair.scores["model"])
        wrong = [pair for pair in ordered if pair.scores["model"] < 1]
        right = [pair for pair in ordered if pair.scores["model"] == 1]
        groups.append(_group("Not right", "The worst first.", wrong, len(pairs)))
        groups.append(_group("Right", "They show all that the prompt asks for.", right, len(pairs)))
        return groups
    judged = sorted((pair for pair in pairs if pair.scores), key=_loss, reverse=True)
    lost, gained = [pair for pair in judged if _loss(pair) > 0], [pair for pair in judged[::-1] if _loss(pair) < 0]
    groups.append(
        _group("Lost", "The source's picture is right, or nearer to it, the other's is not.", lost, len(pairs))
    )
    groups.append(
        _group(
            "Gained", "The pixel model's picture is right, or nearer to it, the source's is not.", gained, len(pairs)
        )
    )
    if comparison is None:
        return groups
    measure = next(name for name in comparison["results"] if name.startswith("pair-distance/")).split("/", 1)[1]
    by_distance = sorted(pairs, key=lambda pair: pair.distance or 0.0, reverse=True)
    number_far = min(PICTURES_OF_A_KIND, (len(pairs) + 1) // 2)
    note = f"Of all pairs, by the distance of their features, network {measure}; its number stands below each pair."
    if measure == "images":
        note = "Of all pairs, by the distance of images that was given; its number stands below each pair."
    far, near = by_distance[:number_far], by_distance[number_far:][::-1][:PICTURES_OF_A_KIND]
    return [*groups, _group("Farthest apart", note, far, None), _group("Nearest to each other", note, near, None)]


def _loss(pair: ShownPair) -> float:
    return pair.scores["source"] - pair.scores["pixel"]


def _group(name: str, note: str, found: Sequence[ShownPair], number_of_all: int | None) -> dict[str, Any]:
    """Return a gallery with some of its pairs, evenly spaced: the first ones would all be of prompts with A."""
    count = min(PICTURES_OF_A_KIND, len(found))
    shown = [found[index * len(found) // count] for index in range(count)]
    return {
        "name": name,
        "note": note,
        "count": len(found),
        "share": None if number_of_all is None else len(found) / number_of_all,
        "shown": [_shown(pair) for pair in shown],
    }


def _shown(pair: ShownPair) -> dict[str, Any]:
    pictures = [
        {
            "side": side,
            "name": SIDES[side],
            "uri": "data:image/jpeg;base64," + base64.b64encode(thumbnail(file, side_px=SIDE_PX)).decode("ascii"),
            "small": max(read_size(file)) <= SMALL_PX,
            "verdict": _verdict(pair.scores.get(side)),
            "reason": pair.reasons.get(side, ""),
        }
        for side, file in pair.files.items()
    ]
    return {"prompt": pair.prompt, "seed": pair.seed, "pictures": pictures, "distance": pair.distance}


def _verdict(score: float | None) -> str:
    if score is None:
        return ""
    return {0.0: "wrong", 1.0: "right"}.get(score, number(score))


def _significant(value: float | None) -> str:
    """Return a number with three digits that count: distances may be 300 or 0.0003."""
    return number(value) if value is None or value != value else f"{value:.3g}"
