"""Batches in the order of a plan, decoded ahead of the training, with damaged images replaced.

Shape letters: C channels (3, sRGB), H height, W width.
"""

import logging
import math
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.dataset import Item, StoredImages, in_floats
from latent2pixel.errors import DataError
from latent2pixel.seeds import step_generator

logger = logging.getLogger(__name__)

FLIP, REPLACE = 4, 5
"""Last counters of generators, as those of ``batch_plan``."""
LOOKAHEAD = 2
"""Batches that workers decode ahead: one for the next step, one against steps of uneven length."""
NUM_NAMED = 5
"""Damaged images that an error names."""


class Batches:
    """A training set in the order in which a run sees it.

    Args:
        dataset: Items by index; raises ``DataError`` for a damaged one.
        plan: Which images each step sees.
        names: What each image is called in messages.
        seed: Seed of the run.
        num_workers: Processes that decode ahead; 0: this one, when a batch is asked for. The batches are the same.
        horizontal_flip: Mirror half of the images, whatever is on them: text turns unreadable.
        max_bad_images: Share of all images that may turn out damaged before the run ends.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        *,
        names: Sequence[object] | None = None,
        seed: int,
        num_workers: int = 0,
        horizontal_flip: bool = False,
        max_bad_images: float = 0.01,
    ) -> None:
        self._plan, self._names = plan, names
        # More than there are cores are slower, and torch warns of them.
        self._num_workers = min(num_workers, os.cpu_count() or 1)
        # Rounded up: one damaged image never ends a run that allows any.
        self._most_bad = math.ceil(max_bad_images * plan.num_images)
        self._reader = _Reader(dataset, plan, seed=seed, horizontal_flip=horizontal_flip, most_bad=self._most_bad)
        self.bad: dict[int, str] = {}
        """Damaged images met so far, each with the reason."""

    def names(self, step: int) -> list[str]:
        """Return what the images of a step are called, those of other processes too."""
        return [str(image if self._names is None else self._names[image]) for image in self._plan.images(step)]

    @contextmanager
    def over(self, steps: range, *, places: Sequence[int]) -> Iterator[Iterator[list[Item]]]:
        """Decode ahead while the block runs.

        Args:
            steps: Steps of the run, counted from 0; any range of them.
            places: Places of the whole batch that are wanted, such as those of one of several processes.

        Yields:
            One list of items for each step, in the order of the places. Asking for one raises ``DataError`` where more
            images are damaged than the run allows.
        """
        options: dict[str, Any] = {}
        if self._num_workers:
            # Images, not batches, are dealt out to the workers: all of them work on the next batch.
            ahead = math.ceil(LOOKAHEAD * len(places) / self._num_workers)
            options = {"prefetch_factor": ahead, "worker_init_fn": _outlive_sigterm}
        loader: DataLoader = DataLoader(
            self._reader,
            batch_size=None,
            sampler=self._wanted(steps, places),  # type: ignore[arg-type]
            num_workers=self._num_workers,
            collate_fn=_as_it_is,
            # Else it draws from the global generator. Nothing depends on it.
            generator=torch.Generator(),
            **options,
        )
        lists = self._lists(loader, len(places))
        try:
            yield lists
        finally:
            lists.close()

    def _wanted(self, steps: range, places: Sequence[int]) -> Iterator["_Wanted"]:
        for step in steps:
            images = self._plan.images(step)
            for place in places:
                yield _Wanted(step=step, place=place, image=images[place])

    def _lists(self, loader: DataLoader, size: int) -> Generator[list[Item], None, None]:
        items: list[Item] = []
        readings: Any = iter(loader)
        try:
            for reading in readings:
                for image, reason in reading.bad.items():
                    self._note(image, reason)
                if reading.item is None:
                    raise self._too_many()
                items.append(in_floats(reading.item))
                if len(items) == size:
                    yield items
                    items = []
        finally:
            # Else they end with the iterator, which the frames of an error keep; and Python waits for them at its exit.
            if self._num_workers:
                readings._shutdown_workers()

    def _note(self, image: int, reason: str) -> None:
        if image not in self.bad:
            self.bad[image] = reason
            logger.warning("a damaged image is replaced by another: %s", reason)
        if len(self.bad) > self._most_bad:
            raise self._too_many()

    def _too_many(self) -> DataError:
        named = "; ".join(list(self.bad.values())[:NUM_NAMED])
        return DataError(
            "More images are damaged than the run allows",
            found=f"{len(self.bad)} of {self._plan.num_images} so far: {named}",
            expected=f"at most {self._most_bad}, and a readable one in every bucket",
            fix="Make or copy the images again and run the same command, or set max_bad_images higher.",
        )


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    step: int
    place: int
    image: int


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What came of one wanted image: the damage met, and an item if there was one."""

    item: Item | None
    bad: dict[int, str]


class _Reader(Dataset):
    """Reads one image at its place, in whichever process."""

    def __init__(self, dataset: Any, plan: BatchPlan, *, seed: int, horizontal_flip: bool, most_bad: int) -> None:
        self._dataset, self._plan, self._seed = dataset, plan, seed
        self._horizontal_flip, self._most_bad = horizontal_flip, most_bad

    def __getitem__(self, wanted: _Wanted) -> _Reading:
        bad: dict[int, str] = {}
        for image in self._candidates(wanted):
            try:
                item = self._read(image)
            except DataError as error:
                bad[image] = error.found
                if len(bad) > self._most_bad:
                    break
            else:
                return _Reading(item=self._flipped(item, wanted), bad=bad)
        return _Reading(item=None, bad=bad)

    def _read(self, image: int) -> Item:
        return self._dataset.stored(image) if isinstance(self._dataset, StoredImages) else self._dataset[image]

    def _candidates(self, wanted: _Wanted) -> Iterator[int]:
        """Yield the image, then, in an order that is a function of step and place alone, all that can replace it."""
        yield wanted.image
        others = self._plan.alternatives(wanted.image)
        generator = step_generator(self._seed, wanted.step, wanted.place, REPLACE)
        for index in torch.randperm(len(others), generator=generator).tolist():
            if others[index] != wanted.image:
                yield int(others[index])

    def _flipped(self, item: Item, wanted: _Wanted) -> Item:
        generator = step_generator(self._seed, wanted.step, wanted.place, FLIP)
        if not self._horizontal_flip or torch.rand(1, generator=generator) < 0.5:
            return item
        flipped: Item = {**item, "image": item["image"].flip(-1)}
        if "weight_1HW" in item:
            flipped["weight_1HW"] = item["weight_1HW"].flip(-1)
        return flipped


def _as_it_is(reading: Any) -> Any:
    return reading


def _outlive_sigterm(_worker: int) -> None:
    """Let a worker live through one SIGTERM.

    A job's signal reaches every process of it, and the training saves a checkpoint first. The second one is the
    training's own, which ends its workers.
    """

    def note(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, note)
