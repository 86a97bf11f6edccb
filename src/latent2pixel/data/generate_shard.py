"""One process's share of a folder of images, from files alone: what every launcher runs, however it starts processes.

Run as a program it takes a saved task, a rank, a world size, and the processes with which it ends.
"""

import math
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from latent2pixel.config import build_config, load_yaml
from latent2pixel.data.curation import Curation, find_scorer
from latent2pixel.data.image_plan import sizes_of
from latent2pixel.data.prompts import Prompt, load_prompts
from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import SHARD_SIZE, SynthesisReport, synthesize
from latent2pixel.errors import ConfigError
from latent2pixel.families import family_of
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline, parse_dtype

SQUARE = "1:1"
WATCH_S = 1.0
"""Time between two looks at whether a starter is still there."""


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """A folder of images to make, in plain values: a task can be saved, and read on another machine.

    Raises:
        ConfigError: A scorer has nothing to choose, or there is a choice without a scorer.
    """

    source: str
    """Pipeline: a folder, or owner/name on the Hub."""
    prompts: str
    """JSON lines of prompts, or a folder with ``prompts.jsonl``, itself or in ``prompts/``."""
    out: str
    """Folder of the images."""
    seeds_per_prompt: int = 2
    """Images of each prompt; the paper makes 2."""
    image_size_px: int = 1024
    """Width and height of square images; of others the root of their number of pixels."""
    aspects: str = SQUARE
    """Width to height of the images, such as "1:1,3:2,2:3"; with shares, such as "1:1=2,3:2=1"."""
    num_steps: int = 30
    """Steps of the pipeline's scheduler."""
    guidance_scale: float = 2.0
    """Guidance of the pipeline."""
    batch_size: int | None = None
    """Images at a time; None finds as many as fit into memory."""
    seed: int = 0
    """Seed of all images."""
    shard_size: int = SHARD_SIZE
    """Images in a shard: the least that is given to one process."""
    scorer: str | None = None
    """Function that scores an image and its prompt, as ``package.module:function``."""
    threshold: float | None = None
    """Least score of an image that stays."""
    best_of: int = 1
    """Images made for each one that can stay."""
    dtype: str | None = None
    """Dtype of all parts of the pipeline; None keeps each part's own."""

    def __post_init__(self) -> None:
        if self.scorer is None and (self.threshold is not None or self.best_of != 1):
            raise ConfigError(
                "There is nothing to choose by",
                found=f"best of {self.best_of}, threshold {self.threshold}, no scorer",
                expected="a scorer, or neither of the two",
                fix="Name a scorer as package.module:function.",
            )

    def load_prompts(self) -> list[Prompt]:
        """Return the prompts.

        Raises:
            DataError: The file cannot be read, or holds other things than prompts.
        """
        path = Path(self.prompts)
        inside = (path / "prompts.jsonl", path / "prompts" / "prompts.jsonl")
        return load_prompts(next((file for file in inside if file.is_file()), path))

    def count_shards(self) -> int:
        """Return how many shards the folder has once it is finished."""
        return math.ceil(len(self.load_prompts()) * self.seeds_per_prompt / self.shard_size)


def generate_shard(rank: int, world_size: int, *, task: ImageTask, local_rank: int | None = None) -> SynthesisReport:
    """Make one process's share of a folder's images; what is there already is not made again.

    Safe to call again, with any rank, at any time, and from several processes at once.

    Args:
        rank: This process's number, from 0.
        world_size: Number of processes that share the folder; another one next time does no harm.
        task: What to make.
        local_rank: This process's number on its machine, which chooses the GPU; None takes the rank.

    Raises:
        L2PError: Source, prompts, settings or folder cannot be used.
    """
    prompts = task.load_prompts()
    curation = None
    if task.scorer is not None:
        curation = Curation(scorer=find_scorer(task.scorer), threshold=task.threshold, best_of=task.best_of)
    folder = find_pipeline_folder(task.source)
    pipe = open_pipeline(folder, dtype=parse_dtype(task.dtype))
    sizes = sizes_of(task.aspects, task.image_size_px, patch_px=_patch_px(pipe))
    return synthesize(
        pipe.to(_device(rank if local_rank is None else local_rank)),
        prompts,
        Path(task.out),
        seeds_per_prompt=task.seeds_per_prompt,
        image_size_px=task.image_size_px,
        num_steps=task.num_steps,
        guidance_scale=task.guidance_scale,
        batch_size=task.batch_size,
        seed=task.seed,
        sizes=None if list(sizes) == [(task.image_size_px, task.image_size_px)] else sizes,
        curation=curation,
        source=source_facts(folder),
        shard_size=task.shard_size,
        rank=rank,
        world_size=world_size,
    )


def _patch_px(pipe: Any) -> int:
    """Return the pixels per token and axis of a pipeline, latent or pixel."""
    return pipe.transformer.config.get("pixel_patch_size") or family_of(pipe.transformer).token_px(pipe)


def _device(local_rank: int) -> str:
    return f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def end_with(pids: list[int]) -> None:
    """Let this process end, at any moment and without a word, soon after one of some processes.

    Who stops a cluster's job stops what the cluster has started, not what that has started in turn.
    """

    def watch() -> None:
        while all(map(psutil.pid_exists, pids)):
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name="ends with its starter", daemon=True).start()


if __name__ == "__main__":
    task_file, own_rank, all_ranks, *starters = sys.argv[1:]
    end_with(list(map(int, starters)))
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    generate_shard(int(own_rank), int(all_ranks), task=build_config(ImageTask, load_yaml(Path(task_file))))
