"""Table, figure and picture strip of an ablation: arms over seeds, against steps and seconds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latent2pixel.io.images import image_grid, save_image
from latent2pixel.io.new_folder import new_file, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
"""arm, seed, step, seconds, error, score, chance, grid; machine, where it is known."""
FIGURE_INCHES = (10.0, 6.4)


@dataclass(frozen=True, kw_only=True)
class AblationResult:
    """What an ablation has measured of a study."""

    name: str
    question: str
    claim: str | None
    rows: Sequence[Row]
    """Every look at every arm, seed by seed."""
    source_scores: Sequence[float]
    """The source's own score, seed by seed; empty where it draws no pictures of this size."""
    missing: int
    """Runs that are not finished."""

    @property
    def arms(self) -> list[str]:
        """Return the arms that have looks, in order."""
        return list(dict.fromkeys(row["arm"] for row in self.rows))

    def as_record(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "name": self.name,
            "question": self.question,
            "claim": self.claim,
            "rows": [dict(row) for row in self.rows],
            "source_scores": list(self.source_scores),
            "missing": self.missing,
            "differences": {arm: differences(self.rows, arm, base=self.arms[0]) for arm in self.arms[1:]},
        }


def write_ablation(result: AblationResult, folder: Path, *, pictures: Mapping[str, Tensor]) -> None:
    """Write ``NAME.md``, ``NAME.png`` and ``NAME-pictures.png``.

    Args:
        result: Of one study.
        folder: Where to.
        pictures: The last look of an arm's first seed, (3, H, W) in [-1, 1], a row each, of arms that have any here.

    Raises:
        OutputFolderError: The folder cannot be written.
    """
    lines = [f"# {result.question}", *([f"The paper: {result.claim}"] if result.claim else []), "", table(result)]
    if result.missing:
        lines.append(f"Runs that are not finished: {result.missing}.\n")
    lines += [f"![score and validation error]({result.name}.png)", ""]
    if pictures:
        lines += [f"![pictures]({result.name}-pictures.png)", "", f"Rows: {'; '.join(pictures)}."]
        save_image(folder / f"{result.name}-pictures.png", image_grid(list(pictures.values()), columns=1))
    write_file(folder / f"{result.name}.md", "\n".join(lines) + "\n")
    # One look at each arm makes no curve.
    draw = draw_curves if len({row["step"] for row in result.rows}) > 1 else draw_arms
    draw(result.rows, folder / f"{result.name}.png", source_scores=result.source_scores)


def table(result: AblationResult) -> str:
    """Return every look as Markdown, mean and standard deviation over the seeds, then what the last ones differ by."""
    base, lines = result.arms[0], [looks_table(result.rows)]
    if len(machines := machines_of(result.rows)) > 1:
        lines.append(f"Seeds on several machines, so no seconds: {'; '.join(machines)}.\n")
    if result.source_scores:
        lines.append(f"The source's own score: {spread(result.source_scores)}.\n")
    if result.arms[1:]:
        lines += [f"| at the last look, less that of {base} | score | validation error |", "| --- | --- | --- |"]
        for arm in result.arms[1:]:
            cells = [spread(differences(result.rows, arm, base=base, key=key)) for key in ("score", "error")]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def looks_table(rows: Sequence[Row]) -> str:
    """Return mean and standard deviation over the seeds of every arm and step as a Markdown table."""
    one_machine = len(machines_of(rows)) == 1
    lines = [
        "| arm | steps | seconds | validation error | score | chance | patch grid |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, step in dict.fromkeys((row["arm"], row["step"]) for row in rows):
        group = [row for row in rows if (row["arm"], row["step"]) == (arm, step)]
        keys = ("seconds", "error", "score", "chance", "grid")
        cells = [
            spread([row[key] for row in group if key in row and (one_machine or key != "seconds")]) for key in keys
        ]
        lines.append(f"| {arm} | {step} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def machines_of(rows: Sequence[Row]) -> list[str]:
    """Return the machines that the seconds were measured on; old rows do not name theirs."""
    return sorted({row.get("machine", "not recorded") for row in rows})


def differences(rows: Sequence[Row], arm: str, *, base: str, key: str = "score") -> list[float]:
    """Return what an arm's last look has more than the base's, for each seed that both have."""
    last = {(row["arm"], row["seed"]): row[key] for row in sorted(rows, key=lambda row: row["step"])}
    seeds = sorted({seed for name, seed in last if name == arm} & {seed for name, seed in last if name == base})
    return [last[arm, seed] - last[base, seed] for seed in seeds]


def spread(values: Sequence[float]) -> str:
    """Return mean +- standard deviation, the value alone, or a dash; chance of one caption a task is no number."""
    if not values or any(map(math.isnan, values)):
        return "-"
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.3f}"


def draw_curves(rows: Sequence[Row], path: Path, *, source_scores: Sequence[float]) -> None:
    """Save score and validation error against steps, and seconds of one machine, as a picture, bands over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    places = {"step": "steps", "seconds": "seconds"} if len(machines_of(rows)) == 1 else {"step": "steps"}
    axes = figure.subplots(2, len(places), squeeze=False)
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        for line, key in enumerate(("score", "error")):
            for column, place in enumerate(places):
                _draw_curve(axes[line, column], mine, key=key, place=place, label=arm)
    for column, text in enumerate(places.values()):
        if source_scores:
            axes[0, column].axhline(statistics.mean(source_scores), color="grey", linestyle="--")
        axes[1, column].set(xlabel=text, yscale="log")
        for line, label in enumerate(("score (dashed: source)" if source_scores else "score", "validation error")):
            axes[line, column].set(ylabel=label, xscale="log")
    axes[0, 0].legend(fontsize=8)
    with new_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


def draw_arms(rows: Sequence[Row], path: Path, *, source_scores: Sequence[float]) -> None:
    """Save score and validation error of every arm as a picture: a dot a seed, mean and standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    score, error = figure.subplots(1, 2)
    for axes, key in ((score, "score"), (error, "error")):
        groups = [[row[key] for row in rows if row["arm"] == arm] for arm in arms]
        for place, values in enumerate(groups):
            axes.plot([place] * len(values), values, ".", color="grey")
        means, spreads = ([take(values) for values in groups] for take in (statistics.mean, statistics.pstdev))
        axes.errorbar(range(len(arms)), means, yerr=spreads, fmt="o", capsize=4)
        axes.set_xticks(range(len(arms)), arms, rotation=20, ha="right")
    score.set(ylabel="score (dashed: source)" if source_scores else "score")
    error.set(ylabel="validation error", yscale="log")
    if source_scores:
        score.axhline(statistics.mean(source_scores), color="grey", linestyle="--")
    with new_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _draw_curve(axes: "Axes", rows: Sequence[Row], *, key: str, place: str, label: str) -> None:
    """Draw one arm's means over the seeds, one standard deviation to either side as a band."""
    steps = sorted({row["step"] for row in rows if row["step"]})
    groups = [[row for row in rows if row["step"] == step] for step in steps]
    places, means = ([statistics.mean(row[name] for row in group) for group in groups] for name in (place, key))
    spreads = [statistics.pstdev(row[key] for row in group) for group in groups]
    low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(places, low, high, alpha=0.2, linewidth=0)
    axes.plot(places, means, marker="o", label=label)
