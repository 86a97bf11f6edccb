"""Our official rules of DPG-Bench against the official program's own functions, on random tables, answers and grids.

python benchmarks/dpg_parity.py PATH/compute_dpg_bench.py [--tables 3000] [--seed 0] [--json]

The program lies beside the questions after the command of docs/dpg-bench.md; it is read from there, only at the commit
that the rules were written after, and never part of this package. It needs pandas. The tables are nastier than the
benchmark's: parents that come later, point at themselves or are missing, blocks and numbers that come twice.
"""

import argparse
import csv
import hashlib
import importlib.util
import json
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from latent2pixel.evaluate.dpg.bench import COMMIT, load_dpg
from latent2pixel.evaluate.dpg.score import score_dpg
from latent2pixel.io.images import png_of

PROGRAM_GIT_ID = "aa2014bef0b7dd8e95e76693c0de7de65deba4dc"
"""Of ``dpg_bench/compute_dpg_bench.py`` at the pinned commit, as git's tree names it."""
HEADER = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
    "question_natural_language",
)  # fmt: skip
CATEGORIES = ("entity - whole", "attribute - color", "global -", "relation - spatial", "other - count")
SIDE_PX = 4
TOLERANCE = 1e-9
"""Of percents: both sum the same float64 numbers, in another order."""


class HashJudge:
    """Answers by a hash of pixels and question, with a share of "yes"; serves the program and us alike."""

    name = "hash"

    def __init__(self, share: float) -> None:
        self.share = share

    def vqa(self, image: Any, question: str) -> str:
        """Answer as the program asks: one picture of Pillow, one question."""
        digest = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes() + question.encode()).digest()
        return "yes" if digest[0] / 256 < self.share else ("no", "red", "Yes")[digest[1] % 3]

    def answer(self, images_CHW: list[torch.Tensor], questions: list[str]) -> list[list[str]]:
        """Answer as we ask."""
        from PIL import Image

        pictures = [Image.fromarray(image_CHW.permute(1, 2, 0).numpy()) for image_CHW in images_CHW]
        return [[self.vqa(picture, question) for question in questions] for picture in pictures]

    def as_record(self) -> dict[str, Any]:
        """Return what decides the answers."""
        return {"share": self.share}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--tables", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    arguments = parser.parse_args()
    program = load_program(arguments.program)
    counts = {"tables": arguments.tables, "pictures": 0, "dropped": 0, "different": 0}
    for number in range(arguments.tables):
        with tempfile.TemporaryDirectory() as scratch:
            compare(program, Path(scratch), random.Random(f"{arguments.seed}/{number}"), counts)
    line = "{tables} tables, {pictures} pictures, {dropped} of them dropped by the program; {different} differ"
    print(json.dumps(counts) if arguments.json else line.format(**counts))
    sys.exit(1 if counts["different"] else 0)


def load_program(path: Path) -> ModuleType:
    """Return the program's functions, if it is the one that the rules were written after."""
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != PROGRAM_GIT_ID:
        sys.exit(f"{path} is not compute_dpg_bench.py of commit {COMMIT}: git id {found}, not {PROGRAM_GIT_ID}")
    spec = importlib.util.spec_from_file_location("compute_dpg_bench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(program: ModuleType, folder: Path, rng: random.Random, counts: dict[str, int]) -> None:
    """Score one random set of pictures both ways, and count what differs."""
    table, items = write_set(folder, rng)
    judge = HashJudge(rng.choice((0.5, 0.8, 0.95)))
    settings = SimpleNamespace(csv=str(table), pic_num=4, res_path=str(folder / "told.txt"))
    questions = program.prepare_dpg_data(settings)
    scores, categories, groups = {}, defaultdict(list), defaultdict(list)
    for item in items:
        picture = str(folder / "grids" / f"{item}.png")
        try:
            scores[item], tuples, answers = program.compute_dpg_one_sample(settings, questions, picture, judge, SIDE_PX)
        except (KeyError, TypeError):  # what the program's own loop prints and forgets
            continue
        for number, text in tuples.items():
            category = text.split("(")[0].strip()
            categories[category].append(answers[number])
            groups[category.split("-")[0].strip()].append(answers[number])
    ours = score_dpg(folder / "grids", judge, bench=load_dpg(table), side_px=SIDE_PX)
    lines = [json.loads(line) for line in Path(ours.results).read_text().splitlines()]
    told = {Path(line["image"]).stem: line["official"] for line in lines}
    counts["pictures"] += len(items)
    counts["dropped"] += len(items) - len(scores)
    same = {item for item in items if not isinstance(told[item], str)} == scores.keys()
    same = same and all(abs(sum(told[item]) / 4 - scores[item]) < TOLERANCE for item in scores)
    same &= equal({"": list(scores.values())} if scores else {}, {"": ours.official.score} if scores else {})
    same &= equal(categories, {name: mean.score for name, mean in ours.official.categories.items()})
    same &= equal(groups, {name: mean.score for name, mean in ours.official.groups.items()})
    counts["different"] += not same


def equal(theirs: dict[str, list[float]], ours: dict[str, float]) -> bool:
    """Return whether our percents are the means of their values."""
    means = {name: 100 * float(np.mean(values)) for name, values in theirs.items()}
    return means.keys() == ours.keys() and all(abs(means[name] - ours[name]) < TOLERANCE for name in means)


def write_set(folder: Path, rng: random.Random) -> tuple[Path, list[str]]:
    """Write a random table with its prompts and grids; return the table and the items."""
    items = [f"item{number}" for number in range(rng.randint(2, 5))]
    rows = []
    for item in [*items, *rng.choices(items, k=int(rng.random() < 0.3))]:
        numbers = list(range(1, rng.randint(1, 6) + 1))
        last = numbers[-1]
        if rng.random() < 0.2:
            rng.shuffle(numbers)
        numbers += rng.choices(numbers, k=int(rng.random() < 0.1))
        for number in numbers:
            kinds = ([0], [0], [rng.randint(1, last)], [rng.randint(1, last), rng.randint(1, last)])
            parents = rng.choice((*kinds, [rng.randint(0, last + 1)]))
            rows.append((item, number, rng.choice((",", ", ")).join(map(str, parents))))
    # pandas takes a column of plain numbers for numbers, which the program cannot split.
    rows.append(("last", 1, "0,0"))
    items.append("last")
    table = folder / "own.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for item, number, parents in rows:
            told = f"{rng.choice(CATEGORIES)} ({item}, {number})"
            writer.writerow([item, "", "", number, parents, "", "", told, f"Question {rng.randrange(10**6)}?"])
    (folder / "prompts").mkdir()
    (folder / "grids").mkdir()
    for item in items:
        (folder / "prompts" / f"{item}.txt").write_text(item)
        values = rng.randbytes(3 * (2 * SIDE_PX) ** 2)
        grid_CHW = torch.frombuffer(bytearray(values), dtype=torch.uint8).view(3, 2 * SIDE_PX, 2 * SIDE_PX)
        (folder / "grids" / f"{item}.png").write_bytes(png_of(grid_CHW))
    return table, items


if __name__ == "__main__":
    main()
