"""Images/s of training with images decoded in the loop against worker processes ahead of it, in the same run.

python benchmarks/data_loading.py [--size 1024] [--batch-size 8] [--workers 1 2] [--step-seconds 1.0] [--json]

The computing of a step is simulated: the loop sleeps, as a process that waits for its accelerator does. The images are
smoothed noise, PNG, as hard to decode as photographs. Opening the folder is timed too, with as many records as asked.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.io.images import save_image
from latent2pixel.io.records import write_records

NUM_IMAGES = 16
"""Distinct pictures; records repeat them."""


def write_images(folder: Path, *, size_px: int, num_records: int) -> None:
    """Write a folder of pictures."""
    generator = torch.Generator().manual_seed(0)
    for index in range(NUM_IMAGES):
        coarse = torch.rand(1, 3, size_px // 8, size_px // 8, generator=generator)
        smooth_CHW = F.interpolate(coarse, size=(size_px, size_px), mode="bicubic")[0]
        grain_CHW = torch.randn(3, size_px, size_px, generator=generator) * 0.01
        save_image(folder / f"{index}.png", (smooth_CHW + grain_CHW).clamp(0, 1) * 2 - 1)
    records = [{"file_name": f"{index % NUM_IMAGES}.png", "prompt": "", "seed": index} for index in range(num_records)]
    write_records(folder / "metadata.jsonl", records)


def seconds_a_step(
    dataset: ImageFolderDataset, *, batch_size: int, steps: int, num_workers: int, step_seconds: float
) -> list[float]:
    """Return the time of every step but the first, which starts the workers."""
    plan = BatchPlan(dataset.sizes, batch_size=batch_size, seed=0)
    batches = Batches(dataset, plan, seed=0, num_workers=num_workers)
    times, last = [], time.perf_counter()
    with batches.over(range(steps + 1), places=range(batch_size)) as lists:
        for items in lists:
            torch.stack([item["image"] for item in items])
            time.sleep(step_seconds)
            now = time.perf_counter()
            times.append(now - last)
            last = now
    return times[1:]


def main() -> None:
    """Print one line for each number of workers, with its ratio to none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--step-seconds", type=float, default=1.0)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), size_px=arguments.size, num_records=arguments.records)
        started = time.perf_counter()
        dataset = ImageFolderDataset(Path(folder), arguments.size, max_cache_bytes=0)
        opening = time.perf_counter() - started
        rows = []
        for num_workers in (0, *arguments.workers):
            times = seconds_a_step(
                dataset,
                batch_size=arguments.batch_size,
                steps=arguments.steps,
                num_workers=num_workers,
                step_seconds=arguments.step_seconds,
            )
            rate = arguments.batch_size / statistics.median(times)
            row = {"workers": num_workers, "seconds_a_step": statistics.median(times), "images_a_second": rate}
            row |= {"min": min(times), "max": max(times)}
            rows.append(row | {"ratio": rate / rows[0]["images_a_second"] if rows else 1.0})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{date.today()}, {cores} cores {platform.machine()}, torch {torch.__version__}"
    if arguments.json:
        print(json.dumps({"opening_seconds": opening, "records": arguments.records, "rows": rows, "where": where}))
        return
    print(f"a folder of {arguments.records:,} records opens in {opening:.1f} s")
    for row in rows:
        print(
            f"{row['workers']} workers: {row['seconds_a_step']:.3f} s / step (min {row['min']:.3f}, "
            f"max {row['max']:.3f}), {row['images_a_second']:.2f} images/s, {row['ratio']:.2f} of none"
        )
    print(where)


if __name__ == "__main__":
    main()
