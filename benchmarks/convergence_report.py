"""Levels and picture strip of the convergence benchmark."""

from pathlib import Path
from typing import Any

from latent2pixel.io.images import image_grid, load_image, save_image

STRIP_STEPS = (0, 10, 100, 1000)
SHARES = (0.5, 0.8, 0.9, 0.95)
"""Shares of the source's score whose first step and second are looked for."""
Row = dict[str, Any]


def levels(rows: list[Row]) -> list[Row]:
    """Return, for each recipe and share of the source's score, the first point that reaches it, seed by seed."""
    found = []
    sources = {row["seed"]: row["score"] for row in rows if row["arm"] == "source"}
    for recipe in dict.fromkeys(row["arm"] for row in rows):
        if recipe in ("source", "lift, closed form") or "without" in recipe:
            continue
        # What goes on from the warm-up has its points too.
        members = ("lift", recipe) if recipe.startswith("lift and") else (recipe,)
        for share in SHARES:
            for seed, source in sources.items():
                mine = [row for row in rows if row["arm"] in members and row["seed"] == seed]
                reached = sorted((row for row in mine if row["score"] >= share * source), key=lambda row: row["step"])
                found.append(
                    {"arm": recipe, "share": share, "seed": seed}
                    | ({key: reached[0][key] for key in ("step", "seconds")} if reached else {"step": None})
                )
    return found


def to_the_papers_end(rows: list[Row], seed: int) -> Row:
    """Return what the lift needs to reach the paper recipe's last score and last error, and the ratios to it."""
    mine = [row for row in rows if row["seed"] == seed]
    paper = max((row for row in mine if row["arm"] == "paper"), key=lambda row: row["step"])
    result: Row = {"seed": seed}
    for key, is_reached in (
        ("score", lambda row: row["score"] >= paper["score"]),
        ("error", lambda row: row["error"] <= paper["error"]),
    ):
        reached = [row for row in mine if row["arm"] == "lift" or row["arm"].startswith("lift and")]
        first = min((row for row in reached if is_reached(row)), key=lambda row: row["step"], default=None)
        result[f"paper_{key}"] = paper[key]
        if first is not None:
            result |= {
                f"{key}_steps_ratio": first["step"] / paper["step"],
                f"{key}_seconds_ratio": first["seconds"] / paper["seconds"],
            }
    return result


def levels_table(found: list[Row]) -> str:
    """Return the first steps and seconds at which shares of the source's score are reached, seed by seed."""
    lines = ["| recipe | share of the source's score | steps (seconds), seed by seed |", "| --- | --- | --- |"]
    for recipe, share in dict.fromkeys((row["arm"], row["share"]) for row in found):
        group = [row for row in found if (row["arm"], row["share"]) == (recipe, share)]
        cells = ["not reached" if row["step"] is None else f"{row['step']} ({row['seconds']:.0f})" for row in group]
        lines.append(f"| {recipe} | {share:.0%} | {', '.join(cells)} |")
    return "\n".join([*lines, ""])


def has_curves(rows: list[Row]) -> bool:
    """Tell whether there is enough for the figure and the comparison with the paper's recipe."""
    return {"source", "lift", "paper"} <= {row["arm"] for row in rows}


def draw_strip(out: Path, path: Path) -> None:
    """Save the first pictures of each recipe at steps 0, 10, 100 and 1000, one row each, if they are here."""
    files = [out / recipe / f"look-{step:06d}.png" for recipe in ("paper", "released", "lift") for step in STRIP_STEPS]
    rows = [load_image(file) for file in files if file.exists()]
    if rows:
        save_image(path, image_grid(rows, columns=1))
