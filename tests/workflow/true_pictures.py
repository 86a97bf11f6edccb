"""Folders of pictures that show exactly what their captions say, and of some that do not."""

import random

from PIL import Image

from latent2pixel.io.records import write_records
from latent2pixel.world.captions import TASKS, heldout_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.render import render
from latent2pixel.world.scenes import compose_scene

LEVEL = require_level("easy")


def write_true_pictures(folder, *, wrong=(), backwards=False):
    """Render 12 held-out captions, two a task; those of the tasks ``wrong`` stay empty."""
    folder.mkdir()
    generator, records = random.Random(0), []
    for index, caption in enumerate(heldout_captions(LEVEL, 2 * len(TASKS), seed=0)):
        picture = render(compose_scene(LEVEL, caption, generator=generator), 64)
        Image.fromarray(picture * (caption.task not in wrong)).save(folder / f"{index}.png")
        records.append({"file_name": f"{index}.png", "prompt": caption.text, "seed": 5})
    write_records(folder / "metadata.jsonl", records[::-1] if backwards else records)
    return folder
