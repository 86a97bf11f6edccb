"""Images a second and peak memory of one training step, in several ways, in the same run.

python benchmarks/train_step.py [--quick] [--json] [--compile] [--release NAME --size 1024 --batch-size 1]

Full tuning; naive freezing (gradients for all weights, an optimiser for those that train); ours, as the training engine
prepares a model: frozen weights take no part in the backward pass; ours with frozen matrices in int8, and in NF4 with
AdamW of 8 bits; the output side alone, likewise; --compile adds ours compiled. Source: the shipped miniature, or with
--release a published configuration with random weights, in bfloat16, for GPUs. Time: median of the steps after two that
warm up. Memory: on CPUs all tensors alive at once, counted in one more step; on GPUs what torch has allocated. A way
that runs out of memory is reported as such.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from typing import Any

import torch
from diffusers.training_utils import cast_training_params

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.families import family_of, load_pixel_class
from latent2pixel.families.catalogue import full_config, releases
from latent2pixel.flow import sample_sigmas
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.model import freezing
from latent2pixel.recipes import miniature, paper
from latent2pixel.train import TrainConfig
from latent2pixel.train.for_model import is_checkpointed, rate_groups
from latent2pixel.train.frozen_weights import stored_parts
from latent2pixel.train.live_bytes import LiveBytes
from latent2pixel.train.optimizer import build_optimizer
from latent2pixel.train.prepare import prepare_model
from latent2pixel.train.step import draw, transfer_loss
from latent2pixel.world.source_model import SHIPPED_SOURCE
from train_memory import TOLD

WARM_UP_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to take a training step."""

    name: str
    preset: str = "paper"
    all_train: bool = False
    all_gradients: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of ``TrainConfig``."""


SMALLEST = {"frozen_weights": "nf4", "optimizer": "adamw_8bit"}
WAYS = (
    Way(name="full tuning", all_train=True),
    Way(name="naive freezing", all_gradients=True),
    Way(name="ours"),
    Way(name="ours, int8", settings={"frozen_weights": "int8"}),
    Way(name="ours, NF4, 8-bit AdamW", settings=SMALLEST),
    Way(name="output side", preset="output"),
    Way(name="output side, int8", preset="output", settings={"frozen_weights": "int8"}),
    Way(name="output side, NF4, 8-bit AdamW", preset="output", settings=SMALLEST),
)
COMPILED = (
    Way(name="ours, compiled", settings={"compile": True}),
    Way(name="output side, compiled", preset="output", settings={"compile": True}),
)


def main() -> None:
    """Measure every way and print them with their ratios to naive freezing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps of small batches")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--compile", action="store_true", help="also measure compiled ways; needs a C compiler")
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="only these, and naive freezing; default: all")
    parser.add_argument("--release", help="published source with random weights, such as Z-Image")
    parser.add_argument("--size", type=int, default=64, help="image size in pixels")
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    steps = 5 if arguments.quick else 15
    batch_size = arguments.batch_size or (1 if arguments.release else 8 if arguments.quick else 32)
    rows = []
    ways = WAYS + (COMPILED if arguments.compile else ())
    chosen = {"naive freezing", *(arguments.ways or [way.name for way in ways])}
    for way in ways:
        if way.name not in chosen:
            continue
        try:
            row = measured(way, arguments.release, size_px=arguments.size, batch_size=batch_size, steps=steps)
        except torch.OutOfMemoryError:
            row = {"way": way.name, "images_per_s": None, "spread": None, "peak_mb": None}
        rows.append(row)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(json.dumps(row), file=sys.stderr, flush=True)
    naive = next(row for row in rows if row["way"] == "naive freezing")
    for row in rows:
        for ratio, key in (("speed_ratio", "images_per_s"), ("memory_ratio", "peak_mb")):
            row[ratio] = row[key] / naive[key] if row[key] and naive[key] else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    machine = {"date": date.today().isoformat(), "device": device, "machine": platform.machine()}
    settings = {"source": arguments.release or "miniature", "size_px": arguments.size, "batch_size": batch_size}
    if arguments.json:
        print(json.dumps({"ways": rows} | settings | machine | {"torch": torch.__version__}))
        return
    print("| way | images/s | of naive | peak MB | of naive |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        if row["images_per_s"] is None:
            print(f"| {row['way']} | out of memory | - | - | - |")
            continue
        speed, memory = f"{row['images_per_s']:.2f} ({row['spread']:.0%})", f"{row['peak_mb']:.0f}"
        of_naive = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("speed_ratio", "memory_ratio")]
        print(f"| {row['way']} | {speed} | {of_naive[0]} | {memory} | {of_naive[1]} |")
    print(f"{settings}\n{machine}, torch {torch.__version__}")


def measured(way: Way, release: str | None, *, size_px: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Return speed and peak memory of one way; spread is that of the steps' times, (max - min) / median."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, told, config = random_model(release, device) if release else shipped_model()
    optimizer = prepared(model, replace(config, freezing=way.preset, **way.settings), way, device)
    images_BCHW = torch.rand(batch_size, 3, size_px, size_px, device=device) * 2 - 1
    conditioning = family_of(model).collate(model, [told] * batch_size, model.grid_of(images_BCHW))
    step = partial(one_step, model.train(), optimizer, images_BCHW, conditioning)
    times = []
    for number in range(steps + WARM_UP_STEPS):
        started = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - started)
    times = times[WARM_UP_STEPS:]
    median = statistics.median(times)
    return {
        "way": way.name,
        "images_per_s": batch_size / median,
        "spread": (max(times) - min(times)) / median,
        "peak_mb": peak_bytes(step, model, optimizer) / 1e6,
    }


def prepared(model: Any, config: TrainConfig, way: Way, device: torch.device) -> Any:
    """Make a model ready in one of the ways, and return its optimiser."""
    if not (way.all_train or way.all_gradients):
        ready = prepare_model(model, config, device=device, latents=None)
        trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
        groups = rate_groups(trainable, new_parts=model.trunk.new_parts, factor=ready.rate_factor)
        return build_optimizer(groups, config, device=device)
    names = freezing.trainable_names(model, preset=config.freezing, num_blocks=config.num_blocks)
    freezing.freeze_all_but(model, [name for name, _ in model.named_parameters()] if way.all_train else names)
    cast_training_params(model)
    optimizer = build_optimizer([{"params": [p for p in model.parameters() if p.requires_grad]}], config, device=device)
    model.requires_grad_(True)
    if is_checkpointed(model, config):
        model.enable_gradient_checkpointing()
    return optimizer


def one_step(model: Any, optimizer: Any, images_BCHW: torch.Tensor, conditioning: Mapping[str, Any], step: int) -> None:
    """Draw, run forward and backward, and move the weights."""
    device = images_BCHW.device
    drawn = draw(
        tuple(images_BCHW.shape[1:]),  # type: ignore[arg-type]
        sample_sigmas=partial(sample_sigmas, shift=3.0),
        caption_dropout=0.0,
        seed=0,
        step=step,
        places=range(len(images_BCHW)),
        device=device,
    )
    with torch.autocast(device.type, torch.bfloat16):
        loss = transfer_loss(model, images_BCHW, drawn, conditioning)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.zero_grad()
    loss.item()


def peak_bytes(step: Any, model: Any, optimizer: Any) -> int:
    """Return the bytes of all tensors alive at the fullest moment of a step."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        step(0)
        return torch.cuda.max_memory_allocated()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    with LiveBytes() as live:
        weights = [part for parameter in model.parameters() for part in stored_parts(parameter)]
        live.count([*weights, *model.buffers(), *states], "held")
        step(0)
    return sum(live.at_peak.values())


def shipped_model() -> tuple[Any, dict[str, torch.Tensor], TrainConfig]:
    """Return the miniature's pixel model, an encoded prompt and its settings."""
    recipe = miniature(paper())
    pipe = open_pipeline(SHIPPED_SOURCE, dtype=torch.float32)
    pipe = build_pixel_pipeline(pipe, patch_size=16, head=recipe.conversion.head, seed=0)
    model = pipe.transformer
    if recipe.training.attention_backend is not None:
        model.set_attention_backend(recipe.training.attention_backend)
    told = family_of(model).encode(pipe, ["a red circle to the left of a blue square"])[0]
    return model, told, recipe.training


def random_model(name: str, device: torch.device) -> tuple[Any, dict[str, torch.Tensor], TrainConfig]:
    """Return the pixel model of a published configuration, an encoded prompt and the published settings."""
    release = next(each for each in releases() if each.release == name)
    empty = load_pixel_class(release.family).from_config_of(full_config(release), pixel_patch_size=release.patch_px)
    model: Any = empty.to(torch.bfloat16).to_empty(device=device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    told = {key: torch.randn(shape, dtype=torch.bfloat16) for key, shape in TOLD[release.family].items()}
    return model, told, paper().training


if __name__ == "__main__":
    main()
