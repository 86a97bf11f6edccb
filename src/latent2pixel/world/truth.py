"""Folders of rendered truth: what a perfect model would make of held-out captions."""

import random
from pathlib import Path

from PIL import Image

from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.records import write_records
from latent2pixel.world.captions import heldout_captions
from latent2pixel.world.levels import Level
from latent2pixel.world.render import render
from latent2pixel.world.scenes import compose_scene


def render_folder(out: Path, level: Level, *, num: int, size_px: int, seed: int) -> Path:
    """Render held-out captions into a new folder with ``metadata.jsonl``, as ``score_folder`` reads it.

    Args:
        out: Folder to make.
        level: Level of the world.
        num: Number of pictures.
        size_px: Width and height, 64 to 4096.
        seed: Seed of captions and scenes.

    Raises:
        GeometryError: The size is out of range.
        OutputFolderError: The folder exists with other content, or cannot be written.
    """
    generator = random.Random(seed)
    with new_folder(out) as part:
        records = []
        for index, caption in enumerate(heldout_captions(level, num, seed=seed)):
            name = f"{index:06d}.png"
            Image.fromarray(render(compose_scene(level, caption, generator=generator), size_px)).save(part / name)
            records.append({"file_name": name, "prompt": caption.text, "task": caption.task})
        write_records(part / "metadata.jsonl", records)
    return out
