"""A set of questions as small as can be, its pictures, and a judge that really looks at them."""

import csv

import numpy as np
import torch

from latent2pixel.evaluate.dpg.bench import load_dpg
from latent2pixel.io.images import png_of

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
HEADER = [
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
    "question_natural_language",
]  # fmt: skip
ROWS = [
    # Item, number, dependency, category, colour that is asked for. The first row is the one that gets lost.
    ("first", 1, "0", "entity - whole", "red"),
    ("first", 2, "1", "attribute - color", "green"),
    ("plain1", 1, "0", "entity - whole", "red"),
    ("plain1", 2, "1", "attribute - color", "green"),
    ("plain1", 3, "2", "attribute - size", "blue"),
    ("7", 1, "0", "global -", "blue"),
]
PROMPTS = {"first": "Red and green.", "plain1": "Red, green and blue.\n", "7": " Blue."}


def asks(colour):
    return f"Is there {colour}?"


def write_bench(folder, rows=ROWS, prompts=PROMPTS, name="own.csv"):
    (folder / "prompts").mkdir(parents=True)
    for item, text in prompts.items():
        (folder / "prompts" / f"{item}.txt").write_bytes(text.encode())
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for item, number, parents, category, colour in rows:
            broad = category.split("-")[0].strip()
            told = [prompts.get(item, ""), "", number, parents, broad, category, f"{category} ({colour})", asks(colour)]
            table.writerow([item, *told])
    return folder / name


def small_bench(folder, **changes):
    return load_dpg(write_bench(folder, **changes))


def picture(*colours, side_px=8):
    """Sheet of sRGB bytes with a bar of each colour on black, shape (3, side, side)."""
    image = np.zeros((side_px, side_px, 3), np.uint8)
    for index, colour in enumerate(colours):
        image[2 * index : 2 * index + 2, 1:] = COLOURS[colour]
    return torch.from_numpy(image).permute(2, 0, 1)


def grid(*samples):
    """Four pictures in reading order, each given by its colours."""
    images = [picture(*colours) for colours in samples]
    return torch.cat([torch.cat(images[:2], 2), torch.cat(images[2:], 2)], 1)


def save_grid(folder, item, *samples):
    folder.mkdir(exist_ok=True)
    (folder / f"{item}.png").write_bytes(png_of(grid(*samples)))


def sees(image_CHW, question):
    colour = torch.tensor(COLOURS[question.removeprefix("Is there ").rstrip("?")], dtype=torch.uint8)
    return bool((image_CHW == colour[:, None, None]).all(0).any())


class ColourJudge:
    """Looks for colours."""

    def __init__(self, *, name="colours", fails_after=None, silent_about=()):
        self.name, self.fails_after, self.silent_about = name, fails_after, silent_about
        self.num_grids = 0

    def answer(self, images_CHW, questions):
        if self.num_grids == self.fails_after:
            raise KeyboardInterrupt
        self.num_grids += 1
        return [[self._say(image_CHW, question) for question in questions] for image_CHW in images_CHW]

    def as_record(self):
        return {"name": self.name}

    def _say(self, image_CHW, question):
        if question in self.silent_about:
            return None
        return "yes" if sees(image_CHW, question) else "no"
