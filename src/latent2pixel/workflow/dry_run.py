"""What a training would need, before anything is loaded: its settings and its memory."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from latent2pixel.convert.initialise import latent_tokens
from latent2pixel.data.listing import read_entries
from latent2pixel.families import family_of, load_pixel_class
from latent2pixel.families.base import require_pixel_pipeline
from latent2pixel.io.pipeline_folder import (
    find_pipeline_folder,
    main_dtype,
    open_pipeline,
    parts_of,
    read_index,
    read_json,
    read_weights,
)
from latent2pixel.train.config import TrainConfig
from latent2pixel.train.memory import CARDS_GB, MemoryEstimate, measure_training
from latent2pixel.train.step import Latents
from latent2pixel.workflow.encode_shapes import empty_part, encode_shapes
from latent2pixel.workflow.transfer import source_folder

GIB = 2**30


def dry_run(
    model: Path,
    images: Path,
    *,
    config: TrainConfig,
    source: str | Path | None = None,
    cards_gb: Sequence[float] = CARDS_GB,
    num_processes: int = 1,
) -> dict[str, Any]:
    """Return a training's settings and its memory, JSON-serialisable; no weight is read.

    Args:
        model: Folder of the converted pipeline.
        images: Folder of images and prompts; every image counts as if it had the longest prompt.
        config: The run's settings.
        source: As in ``transfer``.
        cards_gb: Cards whose largest batch is wanted, GiB.
        num_processes: Processes that share a batch, each on a card of its own.

    Raises:
        L2PError: Model, images and settings do not fit together.
    """
    folder = find_pipeline_folder(model)
    require_pixel_pipeline(folder)
    longest = max((entry.prompt for entry in read_entries(images)), key=len)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    told = encode_shapes(folder, longest, transformer=_empty_transformer(folder), mode=mode)
    latents: Latents | None = None
    beside: tuple[nn.Module, ...] = ()
    if config.objective == "source":
        patch_size = _empty_transformer(folder).config["pixel_patch_size"]
        latents, beside = _source_latents(source_folder(folder, source), patch_size=patch_size, mode=mode)
    estimates: dict[str, MemoryEstimate] = {}
    for name, checkpointed in (("stored", False), ("checkpointed", True)):
        empty = _empty_transformer(folder)
        if checkpointed and not empty._supports_gradient_checkpointing:
            continue
        dtype = getattr(torch, main_dtype(read_weights(folder / "transformer")))
        measured = measure_training(
            empty,
            told,
            config=config,
            checkpointed=checkpointed,
            dtype=dtype,
            mode=mode,
            latents=latents,
            beside=beside,
        )
        estimates[name] = measured.estimate(
            frozen_weights=config.frozen_weights,
            optimizer=config.optimizer,
            block_offload=config.block_offload,
            num_processes=num_processes,
        )
    images_at_once = max(1, config.batch_size // num_processes // config.accumulation_steps)
    return {
        "settings": asdict(config),
        "memory": {
            "unit": "GiB",
            "longest_prompt": longest,
            "activations": {
                name: describe(each, images=images_at_once, cards_gb=cards_gb) for name, each in estimates.items()
            },
        },
    }


def describe(estimate: MemoryEstimate, *, images: int, cards_gb: Sequence[float]) -> dict[str, Any]:
    """Return an estimate for a batch in GiB, and the largest batch of one process for each card.

    Args:
        estimate: Of one way to keep activations.
        images: Of a micro-batch of one process.
        cards_gb: Cards, GiB.
    """
    parts = estimate.at(images)
    rounded = {name: round(value / GIB, 6) for name, value in vars(parts).items() if name not in ("images", "phase")}
    return {
        "images": images,
        "fullest_in": parts.phase,
        "parts": rounded,
        "peak": round(parts.peak / GIB, 6),
        "largest_batch": {f"{card:g}": estimate.largest_batch(card) for card in cards_gb},
    }


def table(result: dict[str, Any]) -> str:
    """Return the memory of ``dry_run`` as text, one line a part."""
    ways = result["memory"]["activations"]
    images = next(iter(ways.values()))["images"]
    parts = [*next(iter(ways.values()))["parts"], "peak"]
    lines = [f"memory in GiB, {images} images at a time on each card; activations:"]
    lines.append(f"{'':18}" + "".join(f"{name:>14}" for name in ways))
    for part in parts:
        values = (way["peak"] if part == "peak" else way["parts"][part] for way in ways.values())
        lines.append(f"{part.replace('_', ' '):18}" + "".join(f"{value:14.2f}" for value in values))
    lines.append("largest batch of one process:")
    for card in next(iter(ways.values()))["largest_batch"]:
        counts = (way["largest_batch"][card] or "none" for way in ways.values())
        lines.append(f"{card + ' GB card':18}" + "".join(f"{count:>14}" for count in counts))
    return "\n".join(lines)


def _empty_transformer(folder: Path) -> Any:
    """Return the folder's pixel model on the meta device."""
    part = folder / "transformer"
    pixel_class: Any = load_pixel_class(family_of(parts_of(read_index(folder))["transformer"][1]).name)
    with init_empty_weights(include_buffers=False):
        return pixel_class.from_config(read_json(part / "config.json"))


def _source_latents(folder: Path, *, patch_size: int, mode: Any) -> tuple[Latents, tuple[nn.Module, ...]]:
    """Return the function from images to a source's latent tokens, and its VAE, without weights."""
    parts = parts_of(read_index(folder))
    family, vae = family_of(parts["transformer"][1]), empty_part(folder, "vae", mode=mode)
    others = [name for name in parts if name not in ("vae", "scheduler")]
    pipe = open_pipeline(folder, without=others, given={"vae": vae})

    def latents(images_BCHW: Tensor) -> Tensor:
        return latent_tokens(pipe, images_BCHW, family=family, patch_size=patch_size)

    return latents, (vae,)
