"""One rung of the patch ladder: time of a picture and the verifier's score, before and after, also after training.

python benchmarks/patch_ladder.py MODEL [--trained FOLDER ...] [--repeats 5] [--json]

MODEL is a pixel pipeline of the miniature, as `l2p demo` leaves it in its sub-folder `converted`; --trained takes rungs
that were made of it by `l2p ladder` and then trained, such as RUN/model, for their score. Both models run in the same
process, in turn, one picture at a time. Score: the world's verifier on 120 held-out captions at 64 px.
"""

import argparse
import json
import os
import platform
import statistics
import time
from datetime import date
from typing import Any

import numpy as np
import torch

from latent2pixel.convert.ladder import double_patch
from latent2pixel.generate import load_pipeline
from latent2pixel.world.captions import heldout_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.score import score_images

SIZES_PX, SCORED_PX, NUM_CAPTIONS, BATCH_SIZE = (64, 128, 256), 64, 120, 60
SAMPLING: dict[str, Any] = {"num_inference_steps": 16, "guidance_scale": 2.0}
"""As in `l2p demo` and benchmarks/convergence.py."""
PROMPT = "a red circle to the left of a blue square"
Row = dict[str, Any]


def main() -> None:
    """Print the two tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="pixel pipeline folder of the miniature")
    parser.add_argument("--trained", nargs="*", default=[], metavar="FOLDER", help="trained rungs to score too")
    parser.add_argument("--repeats", type=int, default=5, help="pictures behind each median")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    arguments = parser.parse_args()
    before = load_pipeline(arguments.model, torch_dtype=torch.float32)
    pipes = {"before": before, "after": double_patch(before)}
    trained = {folder: load_pipeline(folder, torch_dtype=torch.float32) for folder in arguments.trained}
    for pipe in (*pipes.values(), *trained.values()):
        pipe.set_progress_bar_config(disable=True)
    times = [time_row(pipes, size_px, repeats=arguments.repeats) for size_px in SIZES_PX]
    scores = {name: score(pipe) | {"patch_px": patch_of(pipe)} for name, pipe in (pipes | trained).items()}
    machine = {"date": date.today().isoformat(), "cores": os.cpu_count(), "torch": torch.__version__}
    if arguments.json:
        print(json.dumps({"times": times, "scores": scores} | machine))
        return
    print(table(times, scores))
    print(f"{machine['date']}, {machine['cores']} cores {platform.machine()}, torch {machine['torch']}")


def time_row(pipes: dict[str, Any], size_px: int, *, repeats: int) -> Row:
    """Return the median seconds of a picture of both models, in turn, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(repeats + 1):
        for name, pipe in pipes.items():
            started = time.perf_counter()
            pipe(prompt=PROMPT, height=size_px, width=size_px, generator=torch.Generator().manual_seed(0), **SAMPLING)
            seconds[name].append(time.perf_counter() - started)
    row: Row = {"size_px": size_px}
    for name, pipe in pipes.items():
        measured = seconds[name][1:]
        row[name] = {
            "tokens": (size_px // patch_of(pipe)) ** 2,
            "seconds": statistics.median(measured),
            "min": min(measured),
            "max": max(measured),
        }
    return row | {"ratio": row["before"]["seconds"] / row["after"]["seconds"]}


def score(pipe: Any) -> Row:
    """Return the verifier's score on held-out captions."""
    wanted = heldout_captions(require_level("easy"), NUM_CAPTIONS, seed=1)
    generator, pictures = torch.Generator().manual_seed(0), []
    for start in range(0, len(wanted), BATCH_SIZE):
        prompts = [caption.text for caption in wanted[start : start + BATCH_SIZE]]
        pictures += pipe(prompt=prompts, height=SCORED_PX, width=SCORED_PX, generator=generator, **SAMPLING).images
    result = score_images([np.asarray(picture) for picture in pictures], wanted)
    return {"score": result.score, "score_error": result.standard_error, "chance": result.chance}


def patch_of(pipe: Any) -> int:
    """Return the pixels per token and axis."""
    return pipe.transformer.config["pixel_patch_size"]


def table(times: list[Row], scores: dict[str, Row]) -> str:
    """Return both results as Markdown tables."""
    lines = [
        "| size | tokens | seconds a picture before (min, max) | after (min, max) | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in times:
        cells = ["{seconds:.3f} ({min:.3f}, {max:.3f})".format(**row[name]) for name in ("before", "after")]
        tokens = f"{row['before']['tokens']} -> {row['after']['tokens']}"
        lines.append(f"| {row['size_px']} px | {tokens} | {' | '.join(cells)} | {row['ratio']:.2f} |")
    lines += ["", "| model | patch | score | chance |", "| --- | --- | --- | --- |"]
    for name, row in scores.items():
        scored = f"{row['score']:.3f} +- {row['score_error']:.3f}"
        lines.append(f"| {name} | {row['patch_px']} | {scored} | {row['chance']:.3f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
