"""What the engine of `l2p data synthesize` adds to the pipeline: time of the engine over that of a bare loop.

python benchmarks/data.py [--quick] [--json] [--source FOLDER] [--size 64] [--steps 16] [--batch-size 60]

Both make the same images in the same batches and save them as PNG. The bare loop does nothing else; the engine also
plans, journals, waits for the disk, writes records and renames. They take turns, the bare loop first in every other
round. The ratio is that of the medians; where other work shares the machine, that of the shortest rounds, which it has
disturbed least, says more. Without --source it is the miniature, whose images are small and quick: a
hard case for the engine, whose work for an image of 1024 px is the same.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from latent2pixel.data.image_plan import image_seed
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.synthesize import synthesize
from latent2pixel.families import family_of
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline
from latent2pixel.world.captions import draw_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.source_model import SHIPPED_SOURCE

GUIDANCE_SCALE = 2.0


def bare_loop(pipe: Any, prompts: list[Prompt], folder: Path, *, size_px: int, num_steps: int, batch_size: int) -> None:
    """Make and save the images as a short script would."""
    family = family_of(pipe.transformer)
    folder.mkdir()
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        images = family.images(
            pipe,
            prompt=[prompt.prompt for prompt in batch],
            height=size_px,
            width=size_px,
            num_inference_steps=num_steps,
            generator=[torch.Generator().manual_seed(image_seed(0, prompt.id, 0)) for prompt in batch],
            **family.call_options(pipe, guidance_scale=GUIDANCE_SCALE, num_prompts=len(batch)),
        )
        for index, image in enumerate(images, start=start):
            image.save(folder / f"{index:06d}.png")


def engine(pipe: Any, prompts: list[Prompt], folder: Path, *, size_px: int, num_steps: int, batch_size: int) -> None:
    """Make and save the same images with the engine."""
    synthesize(
        pipe,
        prompts,
        folder,
        seeds_per_prompt=1,
        image_size_px=size_px,
        num_steps=num_steps,
        guidance_scale=GUIDANCE_SCALE,
        batch_size=batch_size,
        seed=0,
        shard_size=len(prompts),
    )


def require_same(one: Path, other: Path) -> None:
    """Check that two folders hold the same pictures: otherwise their times say nothing."""
    pictures = [[file.read_bytes() for file in sorted(folder.rglob("*.png"))] for folder in (one, other)]
    assert pictures[0] == pictures[1]
    assert pictures[0]


def measure(pipe: Any, prompts: list[Prompt], out: Path, *, rounds: int, **options: int) -> dict[str, list[float]]:
    """Return the seconds of every round of both."""
    ways: dict[str, Callable[..., None]] = {"bare": bare_loop, "engine": engine}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    bare_loop(pipe, prompts[: options["batch_size"]], out / "warm-up", **options)
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            started = time.perf_counter()
            ways[name](pipe, prompts, out / f"{name}-{number}", **options)
            seconds[name].append(time.perf_counter() - started)
        require_same(out / f"bare-{number}", out / f"engine-{number}")
    return seconds


def main() -> None:
    """Print the time an image takes both ways, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(SHIPPED_SOURCE))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=60)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where to write: the disk that is to be measured")
    parser.add_argument("--quick", action="store_true", help="16 images, one round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.rounds, arguments.batch_size = 16, 1, 8
    pipe = open_pipeline(find_pipeline_folder(arguments.source), dtype=getattr(torch, arguments.dtype))
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    prompts = [
        Prompt(id=f"{index:06d}", prompt=caption.text, major_class="miniature", sub_class=caption.task)
        for index, caption in enumerate(draw_captions(require_level("easy"), "train", arguments.images, seed=0))
    ]
    with tempfile.TemporaryDirectory(dir=arguments.out) as out:
        seconds = measure(
            pipe, prompts, Path(out), rounds=arguments.rounds, size_px=arguments.size, num_steps=arguments.steps,
            batch_size=arguments.batch_size,
        )  # fmt: skip
    rows = {
        name: {key: function(times) / len(prompts) for key, function in
               (("median", statistics.median), ("min", min), ("max", max))}
        for name, times in seconds.items()
    }  # fmt: skip
    ratios = {f"ratio_of_{key}": rows["engine"][key] / rows["bare"][key] for key in ("median", "min")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores} cores {platform.machine()}"
    where = f"{date.today()}, {device}, torch {torch.__version__}"
    if arguments.json:
        print(json.dumps({"seconds_an_image": rows, **ratios, "images": len(prompts), "where": where}))
        return
    for name, row in rows.items():
        print(f"{name:6}: {row['median']:.4f} s / image (min {row['min']:.4f}, max {row['max']:.4f})")
    print(f"engine over bare loop: {ratios['ratio_of_median']:.3f}, shortest rounds {ratios['ratio_of_min']:.3f}")
    print(where)


if __name__ == "__main__":
    main()
