"""Recipes against each other on the miniature: validation error and score against steps and seconds.

python benchmarks/convergence.py OUT [--seeds 0 1 2] [--quick] [--json]

For each seed: source images of 600 captions x 2, then recipe `paper` trained for 1000 steps and seen every 500, and
recipe `lift` warmed up for several numbers of steps, each a run of its own. Validation: squared velocity error on 96
source images of held-out captions at six noise levels. Score: the world's verifier on 120 held-out captions. The
results of a seed lie in OUT and are not made twice.
"""

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.convert.images import NUM_FIT_IMAGES, FitImages
from latent2pixel.convert.initialise import encode_tokens, fit_lift
from latent2pixel.convert.warm_up import WarmUp, warm_up
from latent2pixel.data.dataset import FirstImages, ImageFolderDataset
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.synthesize import synthesize
from latent2pixel.families import family_of
from latent2pixel.flow import add_noise, velocity_from_clean
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.model.pixel_transformer import predict_velocity
from latent2pixel.recipes import RECIPES, miniature
from latent2pixel.train import train
from latent2pixel.world.captions import draw_captions, heldout_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.score import score_images
from latent2pixel.world.source_model import SHIPPED_SOURCE

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
NUM_VALIDATION_IMAGES, NUM_CAPTIONS, SIZE_PX = 96, 120, 64
LEVEL = require_level("easy")
LIFT_STEPS = (0, 100, 300, 1000)
SAMPLING: dict[str, Any] = {"num_inference_steps": 16, "guidance_scale": 2.0, "height": SIZE_PX, "width": SIZE_PX}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("l2p-convergence"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="seed 0 only")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    seeds = [0] if arguments.quick else arguments.seeds
    rows = [row for seed in seeds for row in rows_of(arguments.out / f"seed-{seed}", seed)]
    machine = {"date": date.today().isoformat(), "cores": os.cpu_count(), "torch": torch.__version__}
    result = {"rows": rows, "to_the_papers_error": [to_the_papers_error(rows, seed) for seed in seeds], **machine}
    print(json.dumps(result) if arguments.json else table(rows, result["to_the_papers_error"]))
    if not arguments.json:
        print(f"{machine['date']}, {machine['cores']} cores {platform.machine()}, torch {machine['torch']}")


def rows_of(out: Path, seed: int) -> list[dict[str, Any]]:
    """Return the measured points of one seed, from its file if there is one."""
    path = out / "rows.json"
    if not path.exists():
        make_images(out, seed)
        rows = [*paper_rows(out, seed), *lift_rows(out, seed)]
        path.write_text(json.dumps(rows))
    return json.loads(path.read_text())


def make_images(out: Path, seed: int) -> None:
    """Let the source draw training and validation images."""
    pipe = open_pipeline(SHIPPED_SOURCE, dtype=torch.float32)
    drawn = {caption.text for caption in draw_captions(LEVEL, "train", 600, seed=seed)}
    heldout = [caption.text for caption in heldout_captions(LEVEL, NUM_VALIDATION_IMAGES, seed=seed)]
    for name, texts, seeds in (("images", sorted(drawn), 2), ("validation", heldout, 1)):
        prompts = [
            Prompt(id=f"{index:06d}", prompt=text, major_class="miniature", sub_class="scene")
            for index, text in enumerate(texts)
        ]
        synthesize(
            pipe, prompts, out / name, seeds_per_prompt=seeds, image_size_px=SIZE_PX, num_steps=16,
            guidance_scale=2.0, batch_size=60, seed=seed,
        )  # fmt: skip


def paper_rows(out: Path, seed: int) -> list[dict[str, Any]]:
    """Train the paper's recipe as the demo does, and look every 500 steps."""
    recipe = miniature(RECIPES["paper"]())
    pipe = build_pixel_pipeline(
        open_pipeline(SHIPPED_SOURCE, dtype=torch.float32), head=recipe.conversion.head, seed=seed
    )
    family, dataset = family_of(pipe.transformer), ImageFolderDataset(out / "images", SIZE_PX)
    texts = list(dict.fromkeys([family.null_prompt, *dataset.prompts]))
    encoded = dict(zip(texts, family.encode(pipe, texts), strict=True))
    rows = []
    looking, started = [0.0], time.perf_counter()

    def look(step: int, shown: Any) -> None:
        before = time.perf_counter()
        rows.append(
            {"recipe": "paper", "step": step, "seconds": before - started - looking[0]} | measure(shown, out, seed)
        )
        looking[0] += time.perf_counter() - before

    settings = replace(recipe.training, seed=seed, validate_every=500)
    train(pipe, dataset, encoded.__getitem__, out=out / "paper", config=settings, validate=look)
    return rows


def lift_rows(out: Path, seed: int) -> list[dict[str, Any]]:
    """Convert with the lift and several lengths of the warm-up; its seconds include encoding and fit."""
    recipe = miniature(RECIPES["lift"]())
    dataset = ImageFolderDataset(out / "images", SIZE_PX)
    images = FitImages(name="images", images=FirstImages(dataset, NUM_FIT_IMAGES))
    rows = []
    for steps in LIFT_STEPS:
        source = open_pipeline(SHIPPED_SOURCE, dtype=torch.float32)
        started = time.perf_counter()
        tokens = encode_tokens(source, images)
        fit = fit_lift(source, images, tokens, patch_size=16)
        pipe = build_pixel_pipeline(source, head=recipe.conversion.head, lift=fit, seed=seed)
        if steps:
            shift = family_of(pipe.transformer).shift(pipe.scheduler)
            warm_up(pipe.transformer, images, tokens, settings=WarmUp(steps=steps), shift=shift, seed=seed)
        seconds = time.perf_counter() - started
        rows.append({"recipe": "lift", "step": steps, "seconds": seconds} | measure(pipe, out, seed))
    return rows


@torch.no_grad()
def measure(pipe: Any, out: Path, seed: int) -> dict[str, Any]:
    """Return validation error, its parts, and score of a pixel pipeline."""
    pipe.set_progress_bar_config(disable=True)
    family, model = family_of(pipe.transformer), pipe.transformer.eval()
    dataset = ImageFolderDataset(out / "validation", SIZE_PX)
    images_BCHW = torch.stack([dataset[index]["image"] for index in range(len(dataset))])
    conditioning = family.collate(family.encode(pipe, dataset.prompts), device="cpu", dtype=torch.float32)
    generator, errors = torch.Generator().manual_seed(0), []
    for sigma in SIGMAS:
        sigma_B = torch.full((len(images_BCHW),), sigma)
        noisy_BCHW = add_noise(images_BCHW, torch.randn(images_BCHW.shape, generator=generator), sigma_B)
        target_BCHW = velocity_from_clean(noisy_BCHW, images_BCHW, sigma_B)
        predicted_BCHW = predict_velocity(model, noisy_BCHW, sigma_B, conditioning)
        errors.append((predicted_BCHW - target_BCHW).square().mean().item())
    wanted = heldout_captions(LEVEL, NUM_CAPTIONS, seed=seed + 1)
    generator, pictures = torch.Generator().manual_seed(seed), []
    for start in range(0, len(wanted), 60):
        prompts = [caption.text for caption in wanted[start : start + 60]]
        pictures += pipe(prompt=prompts, generator=generator, **SAMPLING).images
    score = score_images([np.asarray(picture) for picture in pictures], wanted)
    return {
        "seed": seed, "error": statistics.mean(errors), "errors": errors, "score": score.score,
        "score_error": score.standard_error, "chance": score.chance,
    }  # fmt: skip


def to_the_papers_error(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return what the lift needs to fall below the paper recipe's last validation error, and the ratios to it."""
    mine = [row for row in rows if row["seed"] == seed]
    paper = [row for row in mine if row["recipe"] == "paper"][-1]
    reached = [row for row in mine if row["recipe"] == "lift" and row["error"] <= paper["error"]]
    if not reached:
        return {"seed": seed, "error": paper["error"], "reached": False}
    first = min(reached, key=lambda row: row["step"])
    return {
        "seed": seed, "error": paper["error"], "reached": True, "steps_ratio": first["step"] / paper["step"],
        "seconds_ratio": first["seconds"] / paper["seconds"], "score_lift": first["score"],
        "score_paper": paper["score"],
    }  # fmt: skip


def table(rows: list[dict[str, Any]], reached: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds as a Markdown table, and the ratios below it."""
    lines = [
        "| recipe | steps | seconds | validation error | score | chance |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for recipe, step in dict.fromkeys((row["recipe"], row["step"]) for row in rows):
        group = [row for row in rows if (row["recipe"], row["step"]) == (recipe, step)]
        cells = [spread([row[key] for row in group]) for key in ("seconds", "error", "score", "chance")]
        lines.append(f"| {recipe} | {step} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(json.dumps(each) for each in reached)])


def spread(values: list[float]) -> str:
    """Return mean +- standard deviation, or the value alone."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
