"""The lift of patches larger than the source's: fitted on averaged images, against the fit of whole patches.

python benchmarks/lift_patches.py [--patches 16 32] [--seeds 0 1 2] [--source FOLDER] [--json]

Images are true renders of the miniature world, four patches a side, as many as the whole patches need; the averaged fit
has the same ones. One row for each patch and way: patches that it needs, R^2 of the latents, the mean squared error of
``(A^T x - c) / s`` against the latents on 96 fresh images, and seconds of the fit, without making and encoding images.
The whole fit of patch 64 was never run: its sums are matrices of 12,288 x 12,288 in float64, 1.2 GB each.
"""

import argparse
import json
import random
import statistics
import time
from datetime import date
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latent2pixel.convert.images import FitImages
from latent2pixel.convert.initialise import MIN_PATCHES_PER_VALUE, LiftStatistics, encode_tokens, fit_lift
from latent2pixel.device import machine_name
from latent2pixel.families import family_of
from latent2pixel.io.images import as_floats
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline
from latent2pixel.model.lift import LiftFit
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS
from latent2pixel.world.levels import require_level
from latent2pixel.world.render import render
from latent2pixel.world.scenes import draw_scene
from latent2pixel.world.source_model import SHIPPED_SOURCE
from lift_fit import squared_error

GRID, NUM_FRESH_IMAGES = 4, 96
LEVEL = require_level("easy")


def main() -> None:
    """Fit both ways at every patch and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="+", default=[16, 32], help="pixels per token and axis")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the scenes")
    parser.add_argument("--source", default=str(SHIPPED_SOURCE), help="pipeline folder of another tiny source")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    pipe = open_pipeline(find_pipeline_folder(arguments.source), dtype=torch.float32)
    rows = [row for patch in arguments.patches for seed in arguments.seeds for row in compare(pipe, patch, seed=seed)]
    machine = {"date": date.today().isoformat(), "machine": machine_name(), "torch": torch.__version__}
    if arguments.json:
        print(json.dumps({"rows": rows} | machine))
        return
    print(table(rows))
    print(f"{machine['date']}, {machine['machine']}, torch {machine['torch']}")


def compare(pipe: Any, patch: int, *, seed: int) -> list[dict[str, Any]]:
    """Return a row for each way to fit patches of a size."""
    whole_needs = MIN_PATCHES_PER_VALUE * IMAGE_CHANNELS * patch**2
    own = family_of(pipe.transformer).token_px(pipe)
    generator = random.Random(seed)
    images, fresh = (
        FitImages(name="renders", images=renders(count, GRID * patch, generator=generator))
        for count in (-(-whole_needs // GRID**2), NUM_FRESH_IMAGES)
    )
    tokens, fresh_tokens = (encode_tokens(pipe, each, patch_size=patch) for each in (images, fresh))
    rows = []
    for way in ("averaged", "whole"):
        started = time.perf_counter()
        if way == "averaged":
            fit = fit_lift(pipe, images, tokens, patch_size=patch)
        else:
            fit = fit_whole(images, tokens, patch)
        seconds = time.perf_counter() - started
        needs = whole_needs if way == "whole" else MIN_PATCHES_PER_VALUE * IMAGE_CHANNELS * own**2
        error = squared_error(fit, torch.stack(list(fresh.images)), torch.stack(fresh_tokens).float(), patch=patch)
        row = {"patch": patch, "way": way, "needs": needs, "r2_in": fit.r2_in, "scale": fit.scale, "error": error}
        rows.append({**row, "seconds": seconds, "seed": seed})
    return rows


def renders(count: int, size_px: int, *, generator: random.Random) -> list[Tensor]:
    """Return true pictures of scenes, (3, size_px, size_px) bytes each."""
    scenes = [draw_scene(LEVEL, "train", generator=generator) for _ in range(count)]
    return [torch.from_numpy(render(scene, size_px)).permute(2, 0, 1) for scene in scenes]


def fit_whole(images: FitImages, tokens: list[Tensor], patch: int) -> LiftFit:
    """Fit every value of a patch by itself."""
    whole = LiftStatistics(IMAGE_CHANNELS * patch**2, tokens[0].shape[0])
    for image_CHW, tokens_dhw in zip(images.images, tokens, strict=True):
        patches_BDhw = functional.pixel_unshuffle(as_floats(image_CHW)[None], patch)
        whole.add(patches_BDhw.movedim(1, -1).flatten(0, 2), tokens_dhw.movedim(0, -1).flatten(0, 1))
    return whole.fit()


def table(rows: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds as a Markdown table; a ratio of seconds for each patch."""
    lines = ["| patch | fit | patches needed | R^2 in | scale s | error on fresh images | seconds |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for patch, way in dict.fromkeys((row["patch"], row["way"]) for row in rows):
        group = [row for row in rows if (row["patch"], row["way"]) == (patch, way)]
        cells = []
        for key in ("r2_in", "scale", "error", "seconds"):
            values = [row[key] for row in group]
            spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {patch} | {way} | {group[0]['needs']} | {' | '.join(cells)} |")
    for patch in dict.fromkeys(row["patch"] for row in rows):
        averaged, whole = (
            statistics.mean(row["seconds"] for row in rows if (row["patch"], row["way"]) == (patch, way))
            for way in ("averaged", "whole")
        )
        lines.append(f"\nPatch {patch}: the whole fit takes {whole / averaged:.1f} times as long.")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
