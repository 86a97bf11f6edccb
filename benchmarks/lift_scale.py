"""Seconds and memory of the recipe lift on 1000 images of full size, step by step.

python benchmarks/lift_scale.py OUT [--images 1000] [--size 1024] [--steps 1000] [--json]

Z-Image's width and FLUX's VAE, which Z-Image has, with random weights in bfloat16; of the trunk, which does not run,
two blocks. OUT receives synthetic pictures first, in as many processes as there are cores; that is not part of the
figures. The fit is that of the map `ridge`, the longest: `procrustes` would refuse a random VAE, whose latents are no
image of the pixels. Time and memory do not depend on the values.
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from PIL import Image

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.convert.images import FitImages
from latent2pixel.convert.initialise import encode_tokens, fit_lift
from latent2pixel.convert.warm_up import WarmUp, warm_up
from latent2pixel.data.dataset import FirstImages, ImageFolderDataset
from latent2pixel.io.records import write_records

PATCH = 16
VAE = {
    "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""FLUX.1's, from its published configuration."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("l2p-lift-scale"), help="receives the pictures")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1024, help="width and height in pixels")
    parser.add_argument("--steps", type=int, default=1000, help="of the warm-up")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    draw_pictures(arguments.out, arguments.images, arguments.size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = random_source()
    pipe.vae.to(device)
    rows: list[dict[str, Any]] = []

    def timed(name: str, run: Callable[[], Any]) -> Any:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
        rows.append({"part": name, "seconds": time.perf_counter() - started, "gpu_peak_gb": peak})
        return result

    dataset = timed("find the images", lambda: ImageFolderDataset(arguments.out, arguments.size))
    images = FitImages(name="synthetic", images=FirstImages(dataset, arguments.images))
    tokens = timed("latents", lambda: encode_tokens(pipe, images, patch_size=PATCH))
    lift = timed("fit", lambda: fit_lift(pipe, images, tokens, patch_size=PATCH, input_map="ridge"))
    pixel = timed("build", lambda: build_pixel_pipeline(pipe, patch_size=PATCH, lift=lift, seed=0))
    for part in (pixel.transformer.head, pixel.transformer.lift):
        part.to(device)
    settings = WarmUp(steps=arguments.steps)
    name = f"warm-up, {arguments.steps} steps, and calibration"
    timed(name, lambda: warm_up(pixel.transformer, images, tokens, settings=settings, shift=3.0, seed=0))
    total = {
        "fit_seconds": sum(row["seconds"] for row in rows[:-2]),
        "seconds": sum(row["seconds"] for row in rows),
        "ram_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    machine = {"date": date.today().isoformat(), "device": chip, "cores": os.cpu_count(), "torch": torch.__version__}
    settled = {"images": arguments.images, "size_px": arguments.size, "patches": lift.num_patches}
    if arguments.json:
        print(json.dumps({"parts": rows} | total | settled | machine))
        return
    print("| part | seconds | peak of the GPU, GB |\n| --- | --- | --- |")
    for row in rows:
        peak = "-" if row["gpu_peak_gb"] is None else f"{row['gpu_peak_gb']:.1f}"
        print(f"| {row['part']} | {row['seconds']:.1f} | {peak} |")
    print(total, settled, machine, sep="\n")


def draw_pictures(folder: Path, count: int, size_px: int) -> None:
    """Write pictures of noise at several scales, with records; a folder that has them stays."""
    if (folder / "metadata.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(draw_picture, folder, size_px=size_px), range(count), chunksize=8))
    write_records(
        folder / "metadata.jsonl",
        ({"file_name": f"{index:06d}.png", "prompt": "noise", "seed": index} for index in range(count)),
    )


def draw_picture(folder: Path, index: int, *, size_px: int) -> None:
    """Write one picture."""
    generator = np.random.default_rng(index)
    total = np.zeros((size_px, size_px, 3))
    for cells in (4, 16, 64, 256):
        noise = (generator.normal(size=(cells, cells, 3)) * 60 + 128).clip(0, 255).astype(np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((size_px, size_px), Image.Resampling.BICUBIC)) / 4
    Image.fromarray(total.astype(np.uint8)).save(folder / f"{index:06d}.png", compress_level=1)


def random_source() -> ZImagePipeline:
    """Return a pipeline without text encoder; its transformer has Z-Image's width and two blocks."""
    torch.manual_seed(0)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(**VAE).to(torch.bfloat16),
        text_encoder=None,
        tokenizer=None,
        transformer=ZImageTransformer2DModel(n_layers=2, n_refiner_layers=1).to(torch.bfloat16),
    )


if __name__ == "__main__":
    main()
