"""Which images are to be made: prompt, seed, size, and place in a shard, all decided before the first is made.

Nothing here depends on who makes an image, or when: that is why runs can be stopped, shared out and repeated.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from latent2pixel.data.buckets import Size, bucket_of, bucket_sizes
from latent2pixel.data.prompts import Prompt
from latent2pixel.errors import ConfigError, DataError
from latent2pixel.seeds import step_generator

SIZES = 4
"""Last counter of the generator that deals out the sizes; the others are in ``batch_plan``."""


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """One image to make."""

    prompt: Prompt
    seed: int
    size_px: Size
    """Height and width."""
    slot: int
    """Place in the shard; all candidates for one place have the same."""
    file_name: str


def plan_shards(
    prompts: Sequence[Prompt],
    sizes: Mapping[Size, float],
    *,
    seeds_per_prompt: int,
    candidates: int,
    shard_size: int,
    seed: int,
) -> list[list[ImageJob]]:
    """Return the images of every shard: the first image of each prompt, then the second of each, and so on.

    Args:
        prompts: What to show.
        sizes: Share of each size, in any unit.
        seeds_per_prompt: Images of each prompt.
        candidates: Images made for each image that is kept.
        shard_size: Images kept in a shard, at most.
        seed: Seed of the run.
    """
    slots = [(prompt, index) for index in range(seeds_per_prompt) for prompt in prompts]
    dealt = deal_sizes(sizes, len(slots), seed=seed)
    shards: list[list[ImageJob]] = [[] for _ in range(math.ceil(len(slots) / shard_size))]
    for number, ((prompt, index), size_px) in enumerate(zip(slots, dealt, strict=True)):
        slot = number % shard_size
        shards[number // shard_size] += [
            ImageJob(
                prompt=prompt,
                # The first candidate's seed is that of a run without others.
                seed=image_seed(seed, prompt.id, index + candidate * seeds_per_prompt),
                size_px=size_px,
                slot=slot,
                file_name=f"{slot:06d}.png" if candidates == 1 else f"{slot:06d}-{candidate}.png",
            )
            for candidate in range(candidates)
        ]
    return shards


def image_seed(seed: int, prompt_id: str, index: int) -> int:
    """Return the seed of one image: the same for the same run seed, prompt and index, whatever else is made."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()[:6], "big")


def deal_sizes(sizes: Mapping[Size, float], num_images: int, *, seed: int) -> list[Size]:
    """Return a size for each image, in random order, each as often as its share asks for.

    No count is off its share by one or more; what is left after rounding down goes to the largest remainders, the
    earlier size first.

    Args:
        sizes: Share of each size, in any unit; above 0.
        num_images: How many.
        seed: Seed of the order.
    """
    total = sum(sizes.values())
    exact = {size: share * num_images / total for size, share in sizes.items()}
    counts = {size: math.floor(count) for size, count in exact.items()}
    remainders = sorted(sizes, key=lambda size: counts[size] - exact[size])  # sorted keeps the order of equal ones
    for size in remainders[: num_images - sum(counts.values())]:
        counts[size] += 1
    sorted_sizes = [size for size, count in counts.items() for _ in range(count)]
    order = torch.randperm(num_images, generator=step_generator(seed, 0, 0, SIZES)).tolist()
    return [sorted_sizes[place] for place in order]


def sizes_of(aspects: str, image_size_px: int, *, patch_px: int) -> dict[Size, float]:
    """Return the sizes for aspects, of about ``image_size_px**2`` pixels, and the share of each.

    The sizes are those to which training crops images of these aspects.

    Args:
        aspects: Width to height, such as "1:1,3:2,2:3"; with shares such as "1:1=2,3:2=1", otherwise all alike.
        image_size_px: Width and height of a square image.
        patch_px: Side of the model's patch; all sides are whole patches.

    Raises:
        ConfigError: An aspect or a share is none, or two aspects lead to one size.
    """
    sizes: dict[Size, float] = {}
    buckets = bucket_sizes(image_size_px, patch_px=patch_px)
    for one in aspects.split(","):
        match = re.fullmatch(r"\s*(\d+):(\d+)\s*(?:=\s*(\d+(?:\.\d+)?)\s*)?", one)
        width, height, share = (float(part or 1) for part in match.groups()) if match else (0.0, 0.0, 0.0)
        if min(width, height, share) <= 0:
            raise _bad_aspect(repr(one), "WIDTH:HEIGHT or WIDTH:HEIGHT=SHARE, numbers above 0")
        # Square images have the size that was asked for, in whole patches or not: the pipeline says what it takes.
        square = (image_size_px, image_size_px)
        size = square if width == height else bucket_of((int(height), int(width)), buckets)
        if size in sizes:
            raise _bad_aspect(f"{one!r}, again {size[1]} x {size[0]} px", "aspects of different sizes")
        sizes[size] = share
    return sizes


def _bad_aspect(found: str, expected: str) -> ConfigError:
    return ConfigError(
        "The aspects of the images cannot be used",
        found=found,
        expected=expected,
        fix="Write aspects such as 1:1,3:2,2:3; patches allow from 1:2 to 2:1.",
    )


def require_prompts(prompts: Sequence[Prompt]) -> None:
    """Check that there are prompts, each with an id of its own.

    Raises:
        DataError: There are none, or an id comes twice.
    """
    ids = [prompt.id for prompt in prompts]
    if not ids or len(set(ids)) < len(ids):
        raise DataError(
            "The prompts cannot be told apart" if ids else "There are no prompts",
            found=f"{len(ids)} prompts with {len(set(ids))} ids",
            expected="at least one prompt, every id once: the id decides the seed",
            fix="Write each prompt once, with an id of its own.",
        )
