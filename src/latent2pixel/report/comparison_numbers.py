"""Tables and figures of the page of two models side by side, from the record of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from latent2pixel.report.plots import ACCENT, REFERENCE, Point, intervals_plot, ratios_plot

COLORS = {"source": REFERENCE, "pixel": ACCENT, "model": ACCENT}
"""Of the sides, as everywhere on the page."""
MEANINGS = {
    "fid": "Frechet distance of whole pictures' features; falls with the number of pictures, so compare equal numbers.",
    "kid": "Kernel distance of whole pictures' features; right on average for any number, may be below 0.",
    "fid-patch": "Frechet distance of crops' features.",
    "mmd-patch": "Kernel distance of crops' features.",
    "pair-distance": "Mean distance between the two pictures of a pair.",
    "is": "Inception score: how sure the classes are, and how many there are.",
    "clip": "CLIP score: 100 times the cosine of picture and prompt.",
    "fg-clip2-long": "FG-CLIP 2's score for long prompts: 100 times the cosine of picture and prompt.",
    "diversity": "Mean distance between the pictures of one prompt.",
    "patch_grid": "Steps between pixels at the patches' borders over those within; 1 where no grid shows.",
    "spectrum": "Power between these frequencies, in cycles a pixel; a ratio below 1 is blur, above 1 noise or edges.",
}
"""First part of a result's name -> what it means."""
COUNTS = {"num_source": "{} a side", "subset_size": "subsets of {}", "num_crops": "{} crops a picture"}
"""What a distance was taken from, by its key."""
FACTS = {
    "source": "made by",
    "revision": "revision",
    "image_size_px": "size, px",
    "num_steps": "steps",
    "guidance_scale": "guidance",
    "seeds_per_prompt": "pictures a prompt",
    "seed": "seed",
}
"""What a folder's manifest tells, by its key; the two sides should differ in the first two alone."""


def scores_svg(tasks: Mapping[str, Mapping[str, Any]], sides: Sequence[str]) -> str:
    """Return the scores by task as ``<svg>``, with their intervals."""
    names = [task.split("/", 1)[-1].replace("_", "\n") for task in tasks]
    series = [(COLORS[side], [_point(row[side]) for row in tasks.values()]) for side in sides]
    return intervals_plot(names, series, label="score", name="scores")


def spectrum_svg(spectrum: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the pixel model's power over the source's by frequency as ``<svg>``."""
    points = [_point(band["pixel_over_source"]) for band in spectrum.values()]
    label = "power, pixel model over source"
    return ratios_plot(list(spectrum), points, label=label, x_label="cycles a pixel", name="spectrum")


def ratio_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for everything that both models have a number of: name, both, and their ratio."""
    rows = []
    for name, value in results.items():
        if name == "spectrum":
            rows += [_ratio_row(f"spectrum/{band}", numbers) for band, numbers in value.items()]
        elif "pixel" in value:
            rows.append(_ratio_row(name, value))
    return rows


def distance_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every distance between the two: name, meaning, value, spread or error, and from how many."""
    rows = []
    for name, value in results.items():
        row = {"name": name, "meaning": MEANINGS[_kind(name)]}
        if _kind(name) == "pair-distance":
            spread, of = value["standard_error"], f"{value['num_images']} pairs"
            rows.append(row | {"value": value["value"], "spread": spread, "of": of})
        elif "distance" in value:
            of = ", ".join(text.format(value[key]) for key, text in COUNTS.items() if key in value)
            if value.get("full_rank") is False:
                of += f"; fewer than the {value['feature_width']} numbers of a feature, so far too large"
            rows.append(row | {"value": value["distance"], "spread": value.get("standard_deviation"), "of": of})
    return rows


def meanings_of(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the kinds of ``ratio_rows`` mean, each once."""
    kinds = dict.fromkeys(_kind(name) for name, value in results.items() if name == "spectrum" or "pixel" in value)
    return [(kind, MEANINGS[kind]) for kind in kinds]


def facts_of(record: Mapping[str, Any], sides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return how the pictures of each side were made and who judged them: name, and a text for each side."""
    manifests = [record["manifests"].get(side) or {} for side in sides]
    rows = [
        (text, [str(manifest.get(key, "not told")) for manifest in manifests])
        for key, text in FACTS.items()
        if any(key in manifest for manifest in manifests)
    ]
    if record["judges"]:
        rows.append(("judged by", [str(record["judges"][side]["key"]) for side in sides]))
    return rows


def _ratio_row(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    sides = {side: numbers[side] for side in ("source", "pixel")}
    if _kind(name) == "is":
        sides = {side: {"value": part["score"], "low": None, "high": None} for side, part in sides.items()}
    return {"name": name, **sides, "ratio": numbers.get("pixel_over_source")}


def _kind(name: str) -> str:
    """Return the first part of a result's name, behind which its network stands."""
    return name.split("/", 1)[0]


def _point(estimate: Mapping[str, Any]) -> Point:
    return estimate["value"], estimate["low"], estimate["high"]
