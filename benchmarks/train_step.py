"""Images a second and peak memory of one training step, in several ways, in the same run.

python benchmarks/train_step.py [--quick] [--json] [--release NAME --size 1024 --batch-size 1]

Full tuning; naive freezing (gradients for all weights, an optimiser for those that train); ours (frozen weights take no
part in the backward pass); ours with frozen matrices in int8; the output side alone; the same in int8. Source: the
shipped miniature, or with --release a published configuration with random weights, in bfloat16, for GPUs. Time: median
of the steps after two that warm up. Memory: on CPUs all tensors alive at once, counted in one more step; on GPUs what
torch has allocated.
"""

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Any

import torch

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.families import family_of, load_pixel_class
from latent2pixel.families.catalogue import full_config, releases
from latent2pixel.flow import sample_sigmas
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.model import freezing
from latent2pixel.recipes import miniature, paper
from latent2pixel.train import TrainConfig
from latent2pixel.train.for_model import is_checkpointed
from latent2pixel.train.frozen_weights import FrozenWeights, shrink_frozen
from latent2pixel.train.live_bytes import LiveBytes
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
    frozen_weights: FrozenWeights = "stored"


WAYS = (
    Way(name="full tuning", all_train=True),
    Way(name="naive freezing", all_gradients=True),
    Way(name="ours"),
    Way(name="ours, int8", frozen_weights="int8"),
    Way(name="output side", preset="output"),
    Way(name="output side, int8", preset="output", frozen_weights="int8"),
)


def main() -> None:
    """Measure every way and print them with their ratios to naive freezing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps of small batches")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--release", help="published source with random weights, such as Z-Image")
    parser.add_argument("--size", type=int, default=64, help="image size in pixels")
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    steps = 5 if arguments.quick else 15
    batch_size = arguments.batch_size or (1 if arguments.release else 8 if arguments.quick else 32)
    rows = []
    for way in WAYS:
        rows.append(measured(way, arguments.release, size_px=arguments.size, batch_size=batch_size, steps=steps))
        gc.collect()
    naive = next(row for row in rows if row["way"] == "naive freezing")
    for row in rows:
        row["speed_ratio"] = row["images_per_s"] / naive["images_per_s"]
        row["memory_ratio"] = row["peak_mb"] / naive["peak_mb"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    machine = {"date": date.today().isoformat(), "device": device, "machine": platform.machine()}
    settings = {"source": arguments.release or "miniature", "size_px": arguments.size, "batch_size": batch_size}
    if arguments.json:
        print(json.dumps({"ways": rows} | settings | machine | {"torch": torch.__version__}))
        return
    print("| way | images/s | of naive | peak MB | of naive |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        speed, memory = f"{row['images_per_s']:.2f} ({row['spread']:.0%})", f"{row['peak_mb']:.0f}"
        print(f"| {row['way']} | {speed} | {row['speed_ratio']:.2f} | {memory} | {row['memory_ratio']:.2f} |")
    print(f"{settings}\n{machine}, torch {torch.__version__}")


def measured(way: Way, release: str | None, *, size_px: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Return speed and peak memory of one way; spread is that of the steps' times, (max - min) / median."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, told, config = random_model(release, device) if release else shipped_model()
    config = replace(config, freezing=way.preset)
    everything = tuple(name for name, _ in model.named_parameters())
    names = freezing.trainable_names(model, preset=way.preset, num_blocks=config.num_blocks)
    freezing.freeze_all_but(model, everything if way.all_train else names)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as cast_training_params
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    if way.all_gradients:
        model.requires_grad_(True)
    if way.frozen_weights != "stored":
        shrink_frozen(model, way.frozen_weights)
    if is_checkpointed(model, config):
        model.enable_gradient_checkpointing()
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
        live.count([*model.parameters(), *model.buffers(), *states], "held")
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
