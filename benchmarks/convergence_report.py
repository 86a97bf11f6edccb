"""Tables, figure and picture strip of the convergence benchmark."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from latent2pixel.io.images import image_grid, load_image, save_image

STRIP_STEPS = (0, 10, 100, 1000)
SHARES = (0.5, 0.8, 0.9, 0.95)
"""Shares of the source's score whose first step and second are looked for."""
Row = dict[str, Any]


def levels(rows: list[Row]) -> list[Row]:
    """Return, for each recipe and share of the source's score, the first point that reaches it, seed by seed."""
    found = []
    sources = {row["seed"]: row["score"] for row in rows if row["recipe"] == "source"}
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        if recipe in ("source", "lift, closed form") or "without" in recipe:
            continue
        # What goes on from the warm-up has its points too.
        members = ("lift", recipe) if recipe.startswith("lift and") else (recipe,)
        for share in SHARES:
            for seed, source in sources.items():
                mine = [row for row in rows if row["recipe"] in members and row["seed"] == seed]
                reached = sorted((row for row in mine if row["score"] >= share * source), key=lambda row: row["step"])
                found.append(
                    {"recipe": recipe, "share": share, "seed": seed}
                    | ({key: reached[0][key] for key in ("step", "seconds")} if reached else {"step": None})
                )
    return found


def to_the_papers_end(rows: list[Row], seed: int) -> Row:
    """Return what the lift needs to reach the paper recipe's last score and last error, and the ratios to it."""
    mine = [row for row in rows if row["seed"] == seed]
    paper = max((row for row in mine if row["recipe"] == "paper"), key=lambda row: row["step"])
    result: Row = {"seed": seed}
    for key, is_reached in (
        ("score", lambda row: row["score"] >= paper["score"]),
        ("error", lambda row: row["error"] <= paper["error"]),
    ):
        reached = [row for row in mine if row["recipe"] == "lift" or row["recipe"].startswith("lift and")]
        first = min((row for row in reached if is_reached(row)), key=lambda row: row["step"], default=None)
        result[f"paper_{key}"] = paper[key]
        if first is not None:
            result |= {
                f"{key}_steps_ratio": first["step"] / paper["step"],
                f"{key}_seconds_ratio": first["seconds"] / paper["seconds"],
            }
    return result


def table(rows: list[Row]) -> str:
    """Return mean and standard deviation over the seeds as a Markdown table."""
    lines = [
        "| recipe | steps | seconds | validation error | score | chance | patch grid |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe, step in dict.fromkeys((row["recipe"], row["step"]) for row in rows):
        group = [row for row in rows if (row["recipe"], row["step"]) == (recipe, step)]
        keys = ("seconds", "error", "score", "chance", "grid")
        cells = [spread([row[key] for row in group if key in row]) for key in keys]
        lines.append(f"| {recipe} | {step} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def levels_table(found: list[Row]) -> str:
    """Return the first steps and seconds at which shares of the source's score are reached, seed by seed."""
    lines = ["| recipe | share of the source's score | steps (seconds), seed by seed |", "| --- | --- | --- |"]
    for recipe, share in dict.fromkeys((row["recipe"], row["share"]) for row in found):
        group = [row for row in found if (row["recipe"], row["share"]) == (recipe, share)]
        cells = ["not reached" if row["step"] is None else f"{row['step']} ({row['seconds']:.0f})" for row in group]
        lines.append(f"| {recipe} | {share:.0%} | {', '.join(cells)} |")
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    """Return mean +- standard deviation, the value alone, or a dash."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.3f}"


def has_curves(rows: list[Row]) -> bool:
    """Tell whether there is enough for the figure and the comparison with the paper's recipe."""
    return {"source", "lift", "paper"} <= {row["recipe"] for row in rows}


def draw_figure(rows: list[Row], path: Path) -> None:
    """Save score and validation error against steps and seconds, bands over the seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    measured = {row["recipe"] for row in rows}
    for recipe in (name for name in ("paper", "released", "lift") if name in measured):
        steps = sorted({row["step"] for row in rows if row["recipe"] == recipe and row["step"]})
        groups = [[row for row in rows if (row["recipe"], row["step"]) == (recipe, step)] for step in steps]
        for line, key in enumerate(("score", "error")):
            means = np.array([statistics.mean(row[key] for row in group) for group in groups])
            spreads = np.array([np.std([row[key] for row in group]) for group in groups])
            seconds = [statistics.mean(row["seconds"] for row in group) for group in groups]
            for column, places in enumerate((steps, seconds)):
                axes[line, column].fill_between(places, means - spreads, means + spreads, alpha=0.2, linewidth=0)
                axes[line, column].plot(places, means, marker="o", label=recipe)
    source = statistics.mean(row["score"] for row in rows if row["recipe"] == "source")
    for column, text in enumerate(("steps", "seconds")):
        axes[0, column].axhline(source, color="grey", linestyle="--")
        axes[1, column].set(xlabel=text, yscale="log")
        for line, label in enumerate(("score (dashed: source)", "validation error")):
            axes[line, column].set(ylabel=label, xscale="log")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)


def draw_strip(out: Path, path: Path) -> None:
    """Save the first pictures of each recipe at steps 0, 10, 100 and 1000, one row each."""
    files = [
        out / "strips" / f"{recipe}-{step:04d}.png" for recipe in ("paper", "released", "lift") for step in STRIP_STEPS
    ]
    save_image(path, image_grid([load_image(file) for file in files if file.exists()], columns=1))
