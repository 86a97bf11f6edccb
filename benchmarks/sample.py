"""Seconds an image: the plain stock pipeline against ``generate.prepare``, part by part, in the same run.

python benchmarks/sample.py [--quick] [--json] [--compiled] [--rounds 5]

Two pipelines of the family z_image, float32, guidance on (its stock pipeline runs both halves in one batch): the
miniature, converted from the shipped source, with its text encoder, 64 px and 30 steps; and one of 6 blocks of width
512 with random weights, 256 px, 10 steps, a random encoded prompt of 200 tokens and no text encoder. Each round samples
one image each way, with the same prompt and another seed; a way's time is its median, behind one round that warms up.
With one thread times are the processor's, which other jobs hardly lengthen.
"""

import argparse
import copy
import json
import os
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import date
from typing import Any

import torch

from efficiency_models import MIDDLE, SHIPPED, build, device_name, now
from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.errors import L2PError
from latent2pixel.generate.prepare import prepare_for_sampling, remembering
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.model.compute import compile_parts, lay_out_head
from latent2pixel.recipes.miniature import HEAD_CHANNELS

PROMPT = "a red circle to the left of a blue square"
MIDDLE_PX, PROMPT_TOKENS = 256, 200
WAYS = ("plain", "head in channels last", "nothing twice", "both")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--compiled", action="store_true", help="measure compiled blocks and head too")
    parser.add_argument("--rounds", type=int, default=5, help="images behind each median")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    ways = (*WAYS, "compiled", "compiled, and both") if arguments.compiled else WAYS
    rows = []
    for model, (pipe, call) in {"miniature": miniature(), "middle": middle()}.items():
        rows += [{"model": model, **row} for row in measured(pipe, call, ways=ways, rounds=rounds)]
    machine = {"date": date.today().isoformat(), "device": device_name(), "cores": os.cpu_count()}
    machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "middle": MIDDLE}
    print(json.dumps({"rows": rows} | machine) if arguments.json else f"{table(rows)}\n{machine}")


def miniature() -> tuple[Any, dict[str, Any]]:
    """Return the pixel pipeline of the shipped source, and the call for one image."""
    pipe = build_pixel_pipeline(open_pipeline(SHIPPED), head=HEAD_CHANNELS)
    return pipe, {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": 30, "guidance_scale": 2.0}


def middle() -> tuple[Any, dict[str, Any]]:
    """Return a pipeline with random weights, without text encoder, and the call for one image."""
    pipe = build("pixel", "middle", MIDDLE_PX)
    told = (PROMPT_TOKENS, pipe.transformer.config["cap_feat_dim"])
    generator = torch.Generator().manual_seed(0)
    prompt, negative = (torch.randn(told, generator=generator) for _ in range(2))
    size = {"height": MIDDLE_PX, "width": MIDDLE_PX, "num_inference_steps": 10, "guidance_scale": 2.0}
    return pipe, {"prompt_embeds": [prompt], "negative_prompt_embeds": [negative[:32]], **size}


def measured(pipe: Any, call: dict[str, Any], *, ways: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Return the seconds of an image each way, and how far its pixels are from the plain way's."""
    pipe.set_progress_bar_config(disable=True)
    with ExitStack() as kept:
        return _measured({way: sampler(pipe, call, way, kept) for way in ways}, rounds=rounds)


def _measured(samplers: Mapping[str, Callable[[int], torch.Tensor]], *, rounds: int) -> list[dict[str, Any]]:
    ways = list(samplers)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    furthest = dict.fromkeys(ways, 0.0)
    for seed in range(1 + rounds):
        images = {}
        for way, sample in samplers.items():
            started = now()
            images[way] = sample(seed)
            seconds[way].append(now() - started)
        for way in ways:
            furthest[way] = max(furthest[way], (images[way] - images["plain"]).abs().max().item())
    medians = {way: statistics.median(times[1:]) for way, times in seconds.items()}
    return [
        {
            "way": way,
            "image_s": medians[way],
            "spread": (max(seconds[way][1:]) - min(seconds[way][1:])) / medians[way],
            "times_as_fast": medians["plain"] / medians[way],
            "largest_difference": furthest[way],
        }
        for way in ways
    ]


def sampler(pipe: Any, call: dict[str, Any], way: str, kept: ExitStack) -> Callable[[int], torch.Tensor]:
    """Return the function that samples the image of a seed one way.

    Args:
        pipe: Pixel pipeline.
        call: Of the pipeline for one image.
        way: One of ``WAYS``.
        kept: Keeps what is remembered to the end of the run, as a command that makes many images does.
    """
    # Its own copy: each way changes what it samples with.
    own = type(pipe)(**{**pipe.components, "transformer": copy.deepcopy(pipe.transformer)})
    own.set_progress_bar_config(disable=True)
    if way == "head in channels last":
        lay_out_head(own.transformer)
    elif way == "compiled":
        compile_parts(own.transformer)
    elif way != "plain" and way != "nothing twice":
        prepare_for_sampling(own, compiled=way.startswith("compiled"))
    if way in ("nothing twice", "both", "compiled, and both"):
        kept.enter_context(remembering(own))

    def sample(seed: int) -> torch.Tensor:
        return own(**call, generator=torch.Generator().manual_seed(seed), output_type="pt").images

    return sample


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| model | way | s an image (spread) | times as fast | largest difference |", "| --- " * 5 + "|"]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['way']} | {row['image_s']:.3f} ({row['spread']:.0%}) "
            f"| {row['times_as_fast']:.2f} | {row['largest_difference']:.0e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except L2PError as error:
        raise SystemExit(str(error)) from None
