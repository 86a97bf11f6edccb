"""Time of one transfer step: the paper's shallow training against tuning every layer, in the same run.

python benchmarks/training_step.py [--steps 10] [--batch-size 32]
"""

import argparse
import os
import platform
import statistics
import time
from datetime import date
from functools import partial

import torch

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.families import family_of
from latent2pixel.flow import sample_sigmas
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.model import freezing
from latent2pixel.recipes import miniature, paper
from latent2pixel.train.step import draw, step_generator, transfer_loss
from latent2pixel.world.source_model import SHIPPED_SOURCE


def seconds_per_step(*, num_blocks: int, steps: int, batch_size: int) -> list[float]:
    """Return the time of every step but the first two, which warm up."""
    settings = miniature(paper())
    pipe = open_pipeline(SHIPPED_SOURCE, dtype=torch.float32)
    pipe = build_pixel_pipeline(pipe, patch_size=16, head=settings.conversion.head, seed=0)
    model, family = pipe.transformer.train(), family_of(pipe.transformer)
    names = freezing.trainable_names(model, preset="paper", num_blocks=num_blocks)
    freezing.freeze_all_but(model, names)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    encoded = family.encode(pipe, ["a red circle to the left of a blue square"])
    images = torch.rand(batch_size, 3, 64, 64) * 2 - 1
    conditioning = family.collate(model, encoded * batch_size, model.grid_of(images))
    times = []
    for step in range(steps + 2):
        drawn = draw(
            tuple(images.shape),
            sample_sigmas=partial(sample_sigmas, shift=3.0),
            caption_dropout=0.0,
            generator=step_generator(0, step),
        )
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = transfer_loss(model, images, drawn, conditioning)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return times[2:]


def main() -> None:
    """Print one line for each setting and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    medians = {}
    for name, num_blocks in (("shallow, 1 + 1 of 6 blocks", 1), ("all 6 blocks", 6)):
        times = seconds_per_step(num_blocks=num_blocks, steps=arguments.steps, batch_size=arguments.batch_size)
        medians[name] = statistics.median(times)
        rate = arguments.batch_size / medians[name]
        print(
            f"{name:28} {medians[name]:.3f} s / step (min {min(times):.3f}, max {max(times):.3f}), {rate:.0f} images/s"
        )
    shallow, full = medians.values()
    print(f"ratio full / shallow: {full / shallow:.2f}")
    print(f"{date.today()}, {os.cpu_count()} cores {platform.machine()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
