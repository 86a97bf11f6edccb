"""Images made by a stock pipeline from prompts, in shards: none is lost, made twice, or left half-written."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from latent2pixel.data.buckets import Size
from latent2pixel.data.claim import MANIFEST, other_settings, read_manifest
from latent2pixel.data.curation import Curation
from latent2pixel.data.image_plan import ImageJob, image_seed, plan_shards, require_prompts
from latent2pixel.data.open_shard import METADATA, REJECTED, OpenShard, ShardLostError, take_shard, tidy
from latent2pixel.data.painter import Painter
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.shard_claim import Watch
from latent2pixel.data.source_facts import SourceFacts
from latent2pixel.errors import ConfigError, StateError
from latent2pixel.io.new_folder import write_file

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["MANIFEST", "SHARD_SIZE", "SynthesisReport", "image_seed", "synthesize"]

Jobs = list[ImageJob]

logger = logging.getLogger(__name__)

SHARD_SIZE = 240
"""Images in a shard: 20,000 of them make 84 shards to share out, and a folder of 240 files is quick to list."""
BEFORE_0_2 = {"shard_size": 240, "sizes": None, "curation": None}
"""What held for folders whose manifest does not mention it."""
DESCRIPTIVE = ("source", "licence")
"""What a manifest tells for readers only: a folder may be renamed, and a card corrected."""
POLL_S = 1.0
"""Time between two looks at a shard that another process holds."""


@dataclass(frozen=True, kw_only=True)
class SynthesisReport:
    """What a call of ``synthesize`` did."""

    num_images: int
    """Images of this process's shards, old and new."""
    num_new: int
    """Images made now, those that curation left out among them."""
    num_rejected: int
    """Images of this process's shards that curation left out."""
    seconds: float


def synthesize(
    pipe: "DiffusionPipeline",
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    seeds_per_prompt: int,
    image_size_px: int,
    num_steps: int,
    guidance_scale: float,
    batch_size: int | None = None,
    seed: int,
    sizes: Mapping[Size, float] | None = None,
    curation: Curation | None = None,
    source: SourceFacts | None = None,
    shard_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> SynthesisReport:
    """Make images of every prompt, or go on where an earlier call stopped.

    An image depends on the pipeline, its prompt, its seed, its size and the settings alone; another ``batch_size`` may
    round differently, by one level of 255. A process that is killed loses the batch that it is making. Several
    processes may be given the same shard: one makes it, the others wait for it, or go on with it once that one is gone.

    Args:
        pipe: Stock text-to-image pipeline, latent or pixel.
        prompts: What to make.
        folder: Receives ``shard-NNNNN/*.png`` with ``metadata.jsonl``, and ``manifest.json``.
        seeds_per_prompt: Images of each prompt; the paper makes 2.
        image_size_px: Width and height.
        num_steps: Steps of the pipeline's scheduler.
        guidance_scale: The pipeline's guidance.
        batch_size: Images at a time; None finds as many as fit into memory.
        seed: Seed of all images.
        sizes: Share of each (height, width) among the images, instead of squares of ``image_size_px``.
        curation: What decides which images stay; the others are named in ``rejected.jsonl``.
        source: What is known of the pipeline, for the records.
        shard_size: Images in a shard, at most; None takes 240.
        rank: This process's number, from 0; shards are dealt out in turn.
        world_size: Number of processes that share the folder.

    Raises:
        ConfigError: A count is below 1, or the pipeline takes one prompt at a time only.
        DataError: There are no prompts, or an id comes twice.
        GeometryError: The pipeline does not take these sizes or steps, or they do not fit into memory.
        StateError: The folder holds images of other prompts or settings, a damaged manifest, or there is no such rank.
        OutputFolderError: The folder cannot be written, or the disk is full.
    """
    shard_size = SHARD_SIZE if shard_size is None else shard_size
    counts = {"num_steps": num_steps, "seeds_per_prompt": seeds_per_prompt, "shard_size": shard_size}
    _require_positive(counts | ({} if batch_size is None else {"batch_size": batch_size}))
    require_prompts(prompts)
    _require_rank(rank, world_size)
    facts = source or SourceFacts()
    plain = counts | {"image_size_px": image_size_px, "guidance_scale": guidance_scale, "seed": seed}
    painter = Painter(pipe, num_steps=num_steps, guidance_scale=guidance_scale, batch_size=batch_size)
    _claim_folder(folder, plain | _settings(prompts, facts, sizes=sizes, curation=curation))
    shards = plan_shards(
        prompts,
        sizes or {(image_size_px, image_size_px): 1.0},
        seeds_per_prompt=seeds_per_prompt,
        candidates=1 if curation is None else curation.best_of,
        shard_size=shard_size,
        seed=seed,
    )
    mine = {folder / f"shard-{number:05d}": jobs for number, jobs in list(enumerate(shards))[rank::world_size]}
    missing = {path: jobs for path, jobs in mine.items() if not path.exists()}
    for path in mine.keys() - missing.keys():
        tidy(path)
    fixed = {"steps": num_steps, "guidance": guidance_scale, **asdict(facts), "origin": "source"}
    started = time.monotonic()
    with tqdm(total=sum(map(len, missing.values())), desc=folder.name, unit="image", disable=not missing) as bar:
        fill = partial(_fill, painter=painter, curation=curation, fixed=fixed, advance=bar.update)
        num_new = _make_all(missing, fill)
    return SynthesisReport(
        num_images=_count_lines(path / METADATA for path in mine),
        num_new=num_new,
        num_rejected=_count_lines(path / REJECTED for path in mine),
        seconds=time.monotonic() - started,
    )


def _settings(
    prompts: Sequence[Prompt], facts: SourceFacts, *, sizes: Mapping[Size, float] | None, curation: Curation | None
) -> dict[str, Any]:
    """Return what decides the images beside the plain numbers, for the manifest."""
    return {
        "prompts": hashlib.sha256("\n".join(f"{p.id}\t{p.prompt}" for p in prompts).encode()).hexdigest()[:16],
        "sizes": None if sizes is None else [[*size, share] for size, share in sizes.items()],
        "curation": None if curation is None else curation.settings,
        **asdict(facts),
    }


def _make_all(missing: Mapping[Path, Jobs], fill: Callable[[OpenShard, Jobs], int]) -> int:
    """Fill every missing shard, those that others hold last, if at all; return how many images were made."""
    watch, waiting, num_new, told = Watch(), dict(missing), 0, 0
    while waiting:
        taken = False
        for path, jobs in list(waiting.items()):
            if path.exists():
                del waiting[path]
            elif shard := take_shard(path, watch):
                taken = True
                try:
                    with shard.held():
                        num_new += fill(shard, jobs)
                except ShardLostError:
                    logger.warning("%s: another process has taken this one for dead, and goes on with it", path)
        if waiting and not taken:
            if len(waiting) != told:
                logger.info("waiting for %d shards that other processes hold", len(waiting))
            told = len(waiting)
            time.sleep(POLL_S)
    return num_new


def _fill(
    shard: OpenShard,
    jobs: Jobs,
    *,
    painter: Painter,
    curation: Curation | None,
    fixed: Mapping[str, Any],
    advance: Callable[[int], object],
) -> int:
    """Make what a shard lacks, finish it, and return how many images were made."""
    todo = [job for job in jobs if job.file_name not in shard.records]
    advance(len(jobs) - len(todo))
    for batch, images in painter.paint(todo):
        records = [{**_record(job), **fixed} for job in batch]
        if curation is not None:
            for record, image in zip(records, images, strict=True):
                record["score"] = curation.score(image, record["prompt"])
        shard.add(images, records)
        advance(len(batch))
    made = [(job.slot, shard.records[job.file_name]) for job in jobs]
    shard.finish(*([record for _, record in made],) if curation is None else curation.choose(made))
    return len(todo)


def _record(job: ImageJob) -> dict[str, Any]:
    height, width = job.size_px
    return {"file_name": job.file_name, **asdict(job.prompt), "seed": job.seed, "width": width, "height": height}


def _count_lines(files: Iterable[Path]) -> int:
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def _require_positive(counts: Mapping[str, int]) -> None:
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


def _claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Write the manifest of a folder without images, or check that the folder's own is the same."""
    path = folder / MANIFEST
    # Shards in the making count (they begin with a dot); a call that made nothing must not block the corrected one.
    if path.exists() and any(folder.glob("*shard-*")):
        before = BEFORE_0_2 | read_manifest(folder)
        if differing := sorted(key for key in settings if _differs(key, before.get(key), settings[key])):
            raise other_settings(f"{folder} holds images of other settings", settings, before, differing=differing)
        return
    write_file(path, json.dumps(settings, indent=2) + "\n")


def _differs(key: str, before: object, now: object) -> bool:
    """Return whether a setting makes other images; a revision that is not known says nothing."""
    return before != now and key not in DESCRIPTIVE and not (key == "revision" and not (before and now))
