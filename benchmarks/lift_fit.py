"""Ways to find the lift's map from pixels to latents, against each other on the miniature.

python benchmarks/lift_fit.py OUT [--seed 0] [--source FOLDER] [--json]

The source draws 200 images for the fit and 96 of held-out captions; OUT keeps them, and the same call again takes them
from there. One row for each input map: the figures of its fit, the mean squared error of ``(A^T x - c) / s`` against
the latents z on the held-out images, and the seconds of the fit, without making and encoding the images.
`small_random` has the matrix of `random`: only the transformer's input projection differs, which no figure of the fit
sees.
"""

import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latent2pixel.convert.config import INPUT_MAPS
from latent2pixel.convert.images import FitImages
from latent2pixel.convert.initialise import encode_tokens, fit_lift
from latent2pixel.data.dataset import FirstImages, ImageFolderDataset
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.synthesize import synthesize
from latent2pixel.io.images import as_floats
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline
from latent2pixel.model.lift import LiftFit
from latent2pixel.world.captions import draw_captions, heldout_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.source_model import SHIPPED_SOURCE

NUM_FIT_IMAGES, NUM_FRESH_IMAGES, SIZE_PX, PATCH = 200, 96, 64, 16
LEVEL = require_level("easy")
COLUMNS = {
    "input_map": "input map",
    "r2_in": "R^2 in",
    "r2_out": "R^2 out",
    "scale": "scale s",
    "noise_gain": "noise gain 1 / s^2",
    "fitted_noise_gain": "noise gain of the fitted map",
    "fresh_error": "squared error on fresh images",
    "seconds": "seconds",
}
"""Key of a row -> head of its column."""


def main() -> None:
    """Fit all maps on the same images and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("l2p-lift-fit"))
    parser.add_argument("--seed", type=int, default=0, help="of captions, images and random maps")
    parser.add_argument("--source", default=str(SHIPPED_SOURCE), help="pipeline folder of another tiny source")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    pipe = open_pipeline(find_pipeline_folder(arguments.source), dtype=torch.float32)
    make_images(pipe, arguments.out, seed=arguments.seed)
    images, fresh = (
        FitImages(name=name, images=FirstImages(ImageFolderDataset(arguments.out / name, SIZE_PX), count))
        for name, count in (("images", NUM_FIT_IMAGES), ("fresh", NUM_FRESH_IMAGES))
    )
    tokens, fresh_tokens = (encode_tokens(pipe, each, patch_size=PATCH) for each in (images, fresh))
    rows: list[dict[str, Any]] = []
    for input_map in INPUT_MAPS:
        generator = torch.Generator().manual_seed(arguments.seed)
        started = time.perf_counter()
        fit = fit_lift(pipe, images, tokens, patch_size=PATCH, input_map=input_map, generator=generator)
        seconds = time.perf_counter() - started
        error = squared_error(fit, torch.stack(list(fresh.images)), torch.stack(fresh_tokens).float(), patch=PATCH)
        rows.append({"input_map": input_map, **fit.report(), "fresh_error": error, "seconds": seconds})
    fresh_Bdhw = torch.stack(fresh_tokens).float()
    variance = float((fresh_Bdhw - fresh_Bdhw.mean((0, 2, 3), keepdim=True)).square().mean())
    machine = {"date": date.today().isoformat(), "cores": os.cpu_count(), "torch": torch.__version__}
    if arguments.json:
        print(json.dumps({"rows": rows, "fresh_variance": variance, "seed": arguments.seed} | machine))
        return
    print(table(rows))
    print(f"variance of the latents on the fresh images: {variance:.3f}")
    print(f"{machine['date']}, {machine['cores']} cores {platform.machine()}, torch {machine['torch']}")


def make_images(pipe: Any, out: Path, *, seed: int) -> None:
    """Let the source draw images for the fit and fresh ones of held-out captions; finished ones stay."""
    drawn = list(
        dict.fromkeys(caption.text for caption in draw_captions(LEVEL, "train", 2 * NUM_FIT_IMAGES, seed=seed))
    )
    heldout = [caption.text for caption in heldout_captions(LEVEL, NUM_FRESH_IMAGES, seed=seed)]
    for name, texts in (("images", drawn[:NUM_FIT_IMAGES]), ("fresh", heldout)):
        prompts = [
            Prompt(id=f"{index:06d}", prompt=text, major_class="miniature", sub_class="scene")
            for index, text in enumerate(texts)
        ]
        synthesize(
            pipe, prompts, out / name, seeds_per_prompt=1, image_size_px=SIZE_PX, num_steps=16, guidance_scale=2.0,
            batch_size=60, seed=seed,
        )  # fmt: skip


def squared_error(fit: LiftFit, images_BCHW: Tensor, tokens_Bdhw: Tensor, *, patch: int) -> float:
    """Return the mean of ``((A^T x - c) / s - z)^2``."""
    patches_BDhw = functional.pixel_unshuffle(as_floats(images_BCHW), patch)
    lifted_Bdhw = torch.einsum("bDhw,Dd->bdhw", patches_BDhw, fit.basis_Dd) - fit.offset_d.view(-1, 1, 1)
    return (lifted_Bdhw / fit.scale - tokens_Bdhw).square().mean().item()


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    for row in rows:
        cells = [row[key] if isinstance(row[key], str) else f"{row[key]:.3f}" for key in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
