"""Folders of pictures for the tests of data sets."""

import numpy as np
from PIL import Image

from latent2pixel.io.records import write_records


def noise(seed, *, width=24, height=16):
    """Return a picture that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_images(folder, *, num=6, first=0, shard="shard-00000", **fields):
    """Write a shard as the data engine does."""
    (folder / shard).mkdir(parents=True)
    records = []
    for number in range(first, first + num):
        noise(number).save(folder / shard / f"{number:06d}.png")
        records.append(
            {"file_name": f"{number:06d}.png", "id": f"{number:06d}", "prompt": f"a fox, number {number}"}
            | {"major_class": "nature", "sub_class": "animals", "seed": number, "width": 24, "height": 16}
            | {"steps": 30, "guidance": 2, "source": "owner/model", "revision": "abc", "licence": "apache-2.0"}
            | {"origin": "source", "language": "en", "kind": "simple"}
            | fields
        )
    write_records(folder / shard / "metadata.jsonl", records)
    return folder
