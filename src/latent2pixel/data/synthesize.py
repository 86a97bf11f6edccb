"""Images made by a stock pipeline from prompts, in shards that appear whole and are never made twice."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from latent2pixel.data.prompts import Prompt
from latent2pixel.errors import ConfigError, DataError, GeometryError, StateError
from latent2pixel.families import family_of
from latent2pixel.io.new_folder import new_folder, write_file
from latent2pixel.io.records import write_records

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SHARD_SIZE = 240
"""Images in a shard: what a killed run loses at most."""
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class SynthesisReport:
    """What a call of ``synthesize`` did."""

    num_images: int
    """Images of this process's shards, old and new."""
    num_new: int
    """Images made now."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One image to make."""

    prompt: Prompt
    seed: int


def synthesize(
    pipe: "DiffusionPipeline",
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    seeds_per_prompt: int,
    image_size_px: int,
    num_steps: int,
    guidance_scale: float,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> SynthesisReport:
    """Make images of every prompt, or go on where an earlier call stopped.

    An image depends on the pipeline, its prompt, its seed and the settings alone; another ``batch_size`` may round
    differently, by one level of 255.

    Args:
        pipe: Stock text-to-image pipeline, latent or pixel.
        prompts: What to make.
        folder: Receives ``shard-NNNNN/*.png`` with ``metadata.jsonl``, and ``manifest.json``.
        seeds_per_prompt: Images of each prompt; the paper makes 2.
        image_size_px: Width and height.
        num_steps: Steps of the pipeline's scheduler.
        guidance_scale: The pipeline's guidance.
        batch_size: Images at a time.
        seed: Seed of all images.
        rank: This process's number, from 0; shards are dealt out in turn.
        world_size: Number of processes that share the folder.

    Raises:
        ConfigError: A count is below 1.
        DataError: There are no prompts, or an id comes twice.
        GeometryError: The pipeline does not take these sizes or steps.
        StateError: The folder holds images of other prompts or settings, or the rank does not exist.
        OutputFolderError: The folder cannot be written, or the disk is full.
    """
    _require_prompts(prompts)
    _require_positive({"num_steps": num_steps, "batch_size": batch_size, "seeds_per_prompt": seeds_per_prompt})
    _require_rank(rank, world_size)
    settings = {
        "image_size_px": image_size_px,
        "num_steps": num_steps,
        "guidance_scale": guidance_scale,
        "seeds_per_prompt": seeds_per_prompt,
        "seed": seed,
        "prompts": hashlib.sha256("\n".join(f"{p.id}\t{p.prompt}" for p in prompts).encode()).hexdigest()[:16],
    }
    _claim(folder, settings)
    jobs = [_Job(prompt=p, seed=image_seed(seed, p.id, k)) for k in range(seeds_per_prompt) for p in prompts]
    shards = [jobs[start : start + SHARD_SIZE] for start in range(0, len(jobs), SHARD_SIZE)]
    mine = list(enumerate(shards))[rank::world_size]
    missing = [(number, shard) for number, shard in mine if not (folder / f"shard-{number:05d}").exists()]
    num_new = sum(len(shard) for _, shard in missing)
    pipe.set_progress_bar_config(disable=True)
    started = time.monotonic()
    with tqdm(total=num_new, desc=folder.name, unit="image", disable=not num_new) as bar:
        for number, shard in missing:
            with new_folder(folder / f"shard-{number:05d}") as part:
                _fill_shard(pipe, shard, part, settings=settings, batch_size=batch_size, advance=bar.update)
    return SynthesisReport(
        num_images=sum(len(shard) for _, shard in mine), num_new=num_new, seconds=time.monotonic() - started
    )


def image_seed(seed: int, prompt_id: str, index: int) -> int:
    """Return the seed of one image: the same for the same run seed, prompt and index, whatever else is made."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()[:6], "big")


def _fill_shard(
    pipe: Any,
    shard: list[_Job],
    part: Path,
    *,
    settings: dict[str, Any],
    batch_size: int,
    advance: Callable[[int], object],
) -> None:
    records = []
    for start in range(0, len(shard), batch_size):
        batch = shard[start : start + batch_size]
        images = _sample(pipe, batch, settings)
        for offset, (job, image) in enumerate(zip(batch, images, strict=True)):
            name = f"{start + offset:06d}.png"
            image.save(part / name)
            records.append({"file_name": name, **asdict(job.prompt), "seed": job.seed})
        advance(len(batch))
    write_records(part / "metadata.jsonl", records)


def _sample(pipe: Any, batch: list[_Job], settings: dict[str, Any]) -> list[Any]:
    size_px, scale = settings["image_size_px"], settings["guidance_scale"]
    family = family_of(pipe.transformer)
    options = family.call_options(pipe, guidance_scale=scale, num_prompts=len(batch))
    try:
        images = family.images(
            pipe,
            # A copy: some pipelines write the chat template into the list they are given.
            prompt=[job.prompt.prompt for job in batch],
            height=size_px,
            width=size_px,
            num_inference_steps=settings["num_steps"],
            generator=[torch.Generator().manual_seed(job.seed) for job in batch],
            **options,
        )
    except ValueError as error:  # what diffusers' pipelines raise for sizes and steps that they do not take
        raise _refused(f"{type(pipe).__name__}: {error}", size_px) from error
    # Other pipelines round the size down without a word.
    if wrong := [image.size for image in images if image.size != (size_px, size_px)]:
        raise _refused(f"images of {wrong[0][0]} x {wrong[0][1]} px", size_px)
    return images


def _refused(found: str, size_px: int) -> GeometryError:
    return GeometryError(
        "The pipeline does not make images of these settings",
        found=found,
        expected=f"images of {size_px} x {size_px} px",
        fix="Choose an image size that is a multiple of the model's patch, such as 1024.",
    )


def _require_prompts(prompts: Sequence[Prompt]) -> None:
    ids = [prompt.id for prompt in prompts]
    if not ids or len(set(ids)) < len(ids):
        raise DataError(
            "The prompts cannot be told apart" if ids else "There are no prompts",
            found=f"{len(ids)} prompts with {len(set(ids))} ids",
            expected="at least one prompt, every id once: the id decides the seed",
            fix="Write each prompt once, with an id of its own.",
        )


def _require_positive(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(
                f"{name} is out of range", found=count, expected="a number above 0", fix=f"Choose another {name}."
            )


def _require_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise StateError(
            "There is no process of that rank",
            found=f"rank {rank} of world size {world_size}",
            expected=f"a rank from 0 to {world_size - 1}" if world_size > 0 else "a world size of at least 1",
            fix="Number the processes from 0 to world size - 1.",
        )


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write the manifest of a folder without images, or check that the folder's own is the same."""
    path = folder / MANIFEST
    # Shards in the making count (they begin with a dot); a call that made nothing must not block the corrected one.
    if path.exists() and any(folder.glob("*shard-*")):
        before = json.loads(path.read_text(encoding="utf-8"))
        if differing := sorted(key for key in settings if before.get(key) != settings[key]):
            raise StateError(
                f"{folder} holds images of other settings",
                found=", ".join(f"{key} = {settings[key]}" for key in differing),
                expected=", ".join(f"{key} = {before.get(key)}" for key in differing),
                fix="Repeat the earlier settings to go on, or choose another folder.",
            )
        return
    write_file(path, json.dumps(settings, indent=2) + "\n")
