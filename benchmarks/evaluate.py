"""Images a second of each part of a comparison of two image folders, on one device.

python benchmarks/evaluate.py [--quick] [--json]

Random images of one size. Each part alone, median after one warm-up; an image is one image of one of the two folders.
"crops" are FID-patch's 20 of 299 px (half of a smaller image's side) through the network; "whole comparison" is
``compare_folders`` from PNG files, decoding and bootstrap included, with and without these crops: of 64 pairs (8 of
large images), so much of its time is that of resamples and of the kernel distance's 100 subsets, whatever the images.
The distances at the end are given per image of the 2 x 20000 that they are computed for. The network is the fixed
filters: others cost what they cost.

Both clocks are told: the wall's, and the processor's own time, of all threads together. On a core that other programs
share the second is what it does alone; with more than one thread, or on a GPU, only the first means anything.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from latent2pixel.evaluate.compare import ComparisonSettings, compare_folders
from latent2pixel.evaluate.distances import FrechetDistance, crop_corners, crops, polynomial_mmd
from latent2pixel.evaluate.filter_features import filter_features
from latent2pixel.evaluate.patch_grid import patch_grid_ratio
from latent2pixel.evaluate.spectrum import band_power
from latent2pixel.evaluate.uncertainty import bootstrap_mean
from latent2pixel.io.images import load_image, save_image
from latent2pixel.io.records import write_records
from latent2pixel.world.captions import draw_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.render import render
from latent2pixel.world.scenes import compose_scene
from latent2pixel.world.verify import verify

SIZES_PX = (96, 1024)
"""The miniature's and Z-Image's."""
WIDTH = 2048
"""Of Inception's features, for the distances."""
NUM_FEATURES = 20_000
LEVEL = require_level("easy")
NUM_CROPS = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small images and few features")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    repeat = 3 if arguments.quick else 5
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size_px in SIZES_PX[:1] if arguments.quick else SIZES_PX:
            num_pairs = 8 if arguments.quick or size_px > 512 else 64
            for name, num_images, run in parts(Path(scratch) / str(size_px), size_px, num_pairs=num_pairs):
                rows.append(timed(name, f"{size_px} px", num_images, run, repeat=repeat))
    for name, num_images, run in distances(500 if arguments.quick else NUM_FEATURES, 64 if arguments.quick else WIDTH):
        rows.append(timed(name, "features", num_images, run, repeat=1))
    machine = {"date": date.today().isoformat(), "device": platform.machine(), "cores": os.cpu_count()}
    machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if arguments.json:
        print(json.dumps({"rows": rows} | machine))
        return
    print(
        "| part | of | images/s | spread | images/s of processor time | spread |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in rows:
        wall = f"{row['images_per_s']:.3g} | {row['spread']:.0%}"
        print(f"| {row['part']} | {row['of']} | {wall} | {row['images_per_cpu_s']:.3g} | {row['cpu_spread']:.0%} |")
    print(machine)


def parts(folder: Path, size_px: int, *, num_pairs: int) -> list[tuple[str, int, Callable[[], object]]]:
    """Return name, images and one call of each part that works on pixels."""
    generator = torch.Generator().manual_seed(0)
    for side in ("source", "pixel"):
        records = []
        for index in range(num_pairs):
            # As coarse as a picture's: pure noise would make PNG files of more than their bytes.
            coarse_BCHW = torch.rand(1, 3, size_px // 8, size_px // 8, generator=generator) * 2 - 1
            image_BCHW = torch.nn.functional.interpolate(coarse_BCHW, size=(size_px, size_px), mode="bicubic")
            image_BCHW = image_BCHW + 0.02 * torch.randn(image_BCHW.shape, generator=generator)
            save_image(folder / side / f"{index}.png", image_BCHW[0])
            records.append({"file_name": f"{index}.png", "prompt": f"prompt {index // 2}", "seed": index % 2})
        write_records(folder / side / "metadata.jsonl", records)
    image_CHW = load_image(folder / "source" / "0.png")
    crop_px = min(299, size_px // 2)
    corners = crop_corners(size_px, size_px, num=NUM_CROPS, size_px=crop_px, generator=generator)
    folders, settings = (folder / "source", folder / "pixel"), ComparisonSettings(patch_size=16, num_crops=NUM_CROPS)
    plain = ComparisonSettings(patch_size=16, num_crops=0)
    caption = draw_captions(LEVEL, "heldout", 1, seed=0)[0]
    picture_HWC = render(compose_scene(LEVEL, caption, generator=random.Random(0)), size_px)
    return [
        ("reading a PNG", 1, lambda: load_image(folder / "source" / "0.png")),
        ("power spectrum", 1, lambda: band_power(image_CHW[None])),
        ("patch-grid ratio", 1, lambda: patch_grid_ratio(image_CHW[None], 16)),
        ("filters", 1, lambda: filter_features(image_CHW[None])),
        ("crops and filters", 1, lambda: filter_features(crops(image_CHW, corners, size_px=crop_px))),
        ("whole comparison, no crops", 2 * num_pairs, lambda: compare_folders(*folders, settings=plain)),
        ("whole comparison", 2 * num_pairs, lambda: compare_folders(*folders, settings=settings)),
        ("the world's verifier", 1, lambda: verify(picture_HWC, caption)),
    ]


def distances(num_features: int, width: int) -> list[tuple[str, int, Callable[[], object]]]:
    """Return name, images and one call of each part that works on features."""
    generator = torch.Generator().manual_seed(0)
    source_ND, pixel_ND = (torch.randn(num_features, width, generator=generator) for _ in range(2))
    prompts = [str(index // 4) for index in range(num_features)]
    scores = source_ND[:, 0].tolist()

    def frechet() -> None:
        distance = FrechetDistance(width)
        for source, pixel in zip(source_ND.split(500), pixel_ND.split(500), strict=True):
            distance.add(source, pixel)
        distance.result()

    return [
        (f"FID, width {width}", 2 * num_features, frechet),
        (f"KID, width {width}", 2 * num_features, lambda: polynomial_mmd(source_ND, pixel_ND, generator=generator)),
        ("bootstrap of a score", num_features, lambda: bootstrap_mean(scores, prompts, generator=generator)),
    ]


def timed(name: str, of: str, num_images: int, run: Callable[[], object], *, repeat: int) -> dict[str, object]:
    """Return images a second by both clocks, from the median of calls after one that warms up (none for a single)."""
    times, cpu_times = [], []
    for _ in range(repeat + (repeat > 1)):
        started, cpu_started = time.perf_counter(), time.process_time()
        run()
        times.append(time.perf_counter() - started)
        cpu_times.append(time.process_time() - cpu_started)
    row: dict[str, object] = {"part": name, "of": of}
    for (rate, spread), all_times in (
        (("images_per_s", "spread"), times),
        (("images_per_cpu_s", "cpu_spread"), cpu_times),
    ):
        kept = all_times[1:] or all_times
        row |= {rate: num_images / statistics.median(kept), spread: (max(kept) - min(kept)) / statistics.median(kept)}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
