"""The stock pipeline as a maker of images: one size a batch, each image from its own seed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch

from latent2pixel.data.batch_fit import BatchFit
from latent2pixel.data.buckets import Size
from latent2pixel.data.image_plan import ImageJob
from latent2pixel.errors import ConfigError, GeometryError
from latent2pixel.families import family_of


class Painter:
    """A stock pipeline, and how it is called for images of known seeds.

    Args:
        pipe: Text-to-image pipeline, latent or pixel.
        num_steps: Steps of its scheduler.
        guidance_scale: Its guidance.
        batch_size: Images at a time; None finds as many as fit into memory.

    Raises:
        ConfigError: The pipeline takes one prompt at a time, and more were asked for.
    """

    def __init__(self, pipe: Any, *, num_steps: int, guidance_scale: float, batch_size: int | None) -> None:
        self._pipe, self._num_steps, self._guidance_scale = pipe, num_steps, guidance_scale
        self._family = family_of(pipe.transformer)
        self._alone = self._family.one_prompt_a_call
        if self._alone and batch_size not in (None, 1):
            raise ConfigError(
                f"{type(pipe).__name__} makes one image at a time",
                found=f"batch_size {batch_size}",
                expected="1: beside other prompts it fails, or makes other images",
                fix="Use --batch-size auto.",
            )
        on_accelerator = pipe.transformer.device.type != "cpu"
        self._fit = BatchFit(1 if self._alone else batch_size, on_accelerator=on_accelerator)
        pipe.set_progress_bar_config(disable=True)

    def paint(self, jobs: Iterable[ImageJob]) -> Iterator[tuple[list[ImageJob], list[Any]]]:
        """Make images, and yield them in batches of one size.

        Raises:
            GeometryError: The pipeline does not take these sizes or steps, or they do not fit into memory.
        """
        for size_px, same in groupby(sorted(jobs, key=lambda job: job.size_px), key=lambda job: job.size_px):
            yield from self._fit.batches(list(same), size_px, self._sample)

    def _sample(self, batch: list[ImageJob]) -> list[Any]:
        height, width = size_px = batch[0].size_px
        options = self._family.call_options(self._pipe, guidance_scale=self._guidance_scale, num_prompts=len(batch))
        try:
            with _own_random_state(batch[0].seed, self._pipe.transformer.device):
                images = self._family.images(
                    self._pipe,
                    # A copy: some pipelines write the chat template into the list they are given.
                    prompt=[job.prompt.prompt for job in batch],
                    height=height,
                    width=width,
                    num_inference_steps=self._num_steps,
                    generator=[torch.Generator().manual_seed(job.seed) for job in batch],
                    **options,
                )
        except ValueError as error:  # what diffusers' pipelines raise for sizes and steps that they do not take
            raise _refused(f"{type(self._pipe).__name__}: {error}", size_px) from error
        # Other pipelines round the size down without a word.
        if wrong := [image.size for image in images if image.size != (width, height)]:
            raise _refused(f"images of {wrong[0][0]} x {wrong[0][1]} px", size_px)
        return images


@contextmanager
def _own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Let code that draws from torch's global state draw from a seed, and leave the state as it was."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def _refused(found: str, size_px: Size) -> GeometryError:
    return GeometryError(
        "The pipeline does not make images of these settings",
        found=found,
        expected=f"images of {size_px[1]} x {size_px[0]} px",
        fix="Choose an image size that is a multiple of the model's patch, such as 1024.",
    )
