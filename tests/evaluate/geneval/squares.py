"""A detector and a classifier of plain coloured squares, and twelve prompts with right and wrong pictures of them."""

import numpy as np
import torch
from scipy import ndimage

from latent2pixel.evaluate.geneval.clauses import Detection
from latent2pixel.evaluate.geneval.names import TASKS
from latent2pixel.evaluate.geneval.prompts import Clause, GenEvalPrompt

RGB = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
SIDES = {6: "bench", 4: "cat"}


class Squares:
    """Finds coloured squares on white: benches are 6 px wide, cats 4 px."""

    def __init__(self, *, name="squares", fails_after=None):
        self.name, self.seen, self.fails_after = name, 0, fails_after

    def detect(self, image_CHW):
        if self.seen == self.fails_after:
            raise KeyboardInterrupt
        self.seen += 1
        labels, _ = ndimage.label((image_CHW.numpy() != 255).any(0))
        found = []
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            name = SIDES[columns.stop - columns.start]
            found.append(Detection(class_name=name, score=0.95, box=box, mask_HW=labels == number))
        return found

    def as_record(self):
        return {"name": self.name}


class Paint:
    """Names the colour of squares."""

    name = "hf-clip-vit-l-14"

    def colours(self, image_CHW, detections, class_name):
        names = {value: name for name, value in RGB.items()}
        seen = [image_CHW.numpy()[:, each.mask_HW].max(1) for each in detections]
        return [names[tuple(int(value) for value in colour)] for colour in seen]

    def as_record(self):
        return {"name": "paint"}


def picture(*squares):
    """White with squares (class, colour, x, y)."""
    image = np.full((32, 32, 3), 255, np.uint8)
    for name, colour, x, y in squares:
        side = {value: key for key, value in SIDES.items()}[name]
        image[y : y + side, x : x + side] = RGB[colour]
    return torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1


BENCH, CAT = Clause(class_name="bench", count=1), Clause(class_name="cat", count=1)
RED_BENCH = Clause(class_name="bench", count=1, colour="red")
BLUE_CAT = Clause(class_name="cat", count=1, colour="blue")
BENCH_SQUARE, CAT_SQUARE = ("bench", "red", 2, 2), ("cat", "blue", 20, 2)
CASES = {
    # Task: clauses, a right picture, a wrong one and the reason against it.
    "single_object": ((BENCH,), (BENCH_SQUARE,), (CAT_SQUARE,), "1 of bench wanted, 0 found"),
    "two_object": ((BENCH, CAT), (BENCH_SQUARE, CAT_SQUARE), (BENCH_SQUARE,), "1 of cat wanted, 0 found"),
    "counting": (
        (Clause(class_name="bench", count=2),),
        (BENCH_SQUARE, ("bench", "blue", 20, 20)),
        (BENCH_SQUARE, ("bench", "blue", 20, 20), ("bench", "blue", 20, 2)),
        "fewer than 3 of bench wanted, 3 found",
    ),
    "colors": ((RED_BENCH,), (BENCH_SQUARE,), (("bench", "green", 2, 2),), "1 of bench in red wanted, 1 green found"),
    "position": (
        (BENCH, Clause(class_name="cat", count=1, position=("right of", 0))),
        (BENCH_SQUARE, CAT_SQUARE),
        (BENCH_SQUARE, ("cat", "red", 3, 20)),
        "cat wanted right of bench, found below it",
    ),
    "color_attr": (
        (RED_BENCH, BLUE_CAT),
        (BENCH_SQUARE, CAT_SQUARE),
        (BENCH_SQUARE, ("cat", "red", 20, 2)),
        "1 of cat in blue wanted, 1 red found",
    ),
}
TOO_MANY = {"counting": (Clause(class_name="bench", count=3),)}
PROMPTS = [
    GenEvalPrompt(task=task, prompt=f"{task} {number}", include=CASES[task][0], exclude=TOO_MANY.get(task, ()))
    for task in TASKS
    for number in (0, 1)
]
RIGHT = [1, 0, 2, 1, 2, 2, 0, 0, 1, 1, 2, 0]
"""Right pictures of two, for each prompt."""
