"""Which images each step sees: a function of seed and step alone, so that a run goes on anywhere.

Every bucket of images of one size has an endless stream: epochs of fresh permutations, one behind the other. Each epoch
of the data takes from every stream the whole batches that it fills by then, in random order; what is left comes with
the next epoch. So all images of a batch have one size, and every image comes once an epoch.
"""

from bisect import bisect_right
from collections.abc import Hashable, Sequence

import numpy as np
import torch

from latent2pixel.seeds import step_generator

BUCKETS, PHASES = 2, 3
"""Last counters of generators, each for one purpose; without one, or with 1, they are the training step's draws."""


class BatchPlan:
    """The order in which a run sees its images.

    Args:
        buckets: Bucket of each image; images of equal ones can stand in one batch.
        weights: How often an epoch shows each image, on average; above 0.
        batch_size: Images a step, over all processes.
        seed: Seed of the run.
    """

    def __init__(
        self, buckets: Sequence[Hashable], weights: Sequence[float] | None = None, *, batch_size: int, seed: int
    ) -> None:
        self.num_images = len(buckets)
        self._batch_size, self._seed = batch_size, seed
        names = {name: number for number, name in enumerate(sorted(set(buckets), key=str))}
        self._numbers = np.array([names[name] for name in buckets])
        every = np.ones(len(buckets)) if weights is None else np.array(weights, dtype=np.float64)
        self._streams = []
        for number in range(len(names)):
            images = np.flatnonzero(self._numbers == number)
            self._streams.append(_Stream(images, every[images], seed=seed, number=number))
        self._batches_an_epoch = np.array([stream.total for stream in self._streams]) / batch_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def images(self, step: int) -> list[int]:
        """Return the images of a step, counted from 0, in their places."""
        # Each stream gives at most one batch less than its share of the epochs.
        most = int((step + len(self._streams) + 1) / self._batches_an_epoch.sum()) + 2
        epoch = bisect_right(range(most), step, key=lambda epoch: int(self._given(epoch).sum())) - 1
        given = self._given(epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        place = step - int(given.sum())
        number = self._order[place]
        batch = int(given[number]) + int((self._order[:place] == number).sum())
        return self._streams[number].take(batch * self._batch_size, self._batch_size)

    def alternatives(self, image: int) -> np.ndarray:
        """Return all images that can take the place of an image."""
        return self._streams[self._numbers[image]].images

    def _given(self, epochs: int) -> np.ndarray:
        """Return how many batches each stream has given after some epochs."""
        return np.floor(epochs * self._batches_an_epoch).astype(np.int64)

    def _order_of(self, epoch: int) -> np.ndarray:
        """Return the streams' numbers in the order of an epoch's batches."""
        numbers = np.repeat(np.arange(len(self._streams)), self._given(epoch + 1) - self._given(epoch))
        generator = step_generator(self._seed, epoch, 0, BUCKETS)
        return numbers[torch.randperm(len(numbers), generator=generator).numpy()]


class _Stream:
    """The endless order of one bucket's images.

    Epoch e shows an image ``floor(weight (e + 1) + phase) - floor(weight e + phase)`` times, with a random phase in
    [0, 1): its weight on average, and never off by more than one.
    """

    def __init__(self, images: np.ndarray, weights: np.ndarray, *, seed: int, number: int) -> None:
        self.images, self.total = images, float(weights.sum())
        self._weights, self._seed, self._number = weights, seed, number
        generator = step_generator(seed, 0, number, PHASES)
        # Drawn with 24 bits: beside a whole weight and billions of epochs the sum stays exact.
        self._phases = torch.rand(len(images), generator=generator).double().numpy()
        self._first, self._order = 0, np.empty(0, dtype=np.int64)

    def take(self, position: int, count: int) -> list[int]:
        """Return some images from a position of the stream on."""
        taken: list[int] = []
        while len(taken) < count:
            at = position + len(taken)
            if not self._first <= at < self._first + len(self._order):
                self._open(at)
            offset = at - self._first
            taken += self._order[offset : offset + count - len(taken)].tolist()
        return taken

    def _open(self, position: int) -> None:
        """Hold the order of the epoch in which a position lies."""
        # An image is shown less than once less often than its weight times the epochs.
        most = int((position + len(self.images) + 1) / self.total) + 2
        epoch = bisect_right(range(most), position, key=lambda epoch: int(self._shown(epoch).sum())) - 1
        before = self._shown(epoch)
        shown = np.repeat(self.images, self._shown(epoch + 1) - before)
        # The first stream's orders are those of a set that has but one.
        counters = (epoch,) if self._number == 0 else (epoch, self._number, BUCKETS)
        order = torch.randperm(len(shown), generator=step_generator(self._seed, *counters)).numpy()
        self._first, self._order = int(before.sum()), shown[order]

    def _shown(self, epochs: int) -> np.ndarray:
        """Return how often each image has been shown after some epochs."""
        return np.floor(self._weights * epochs + self._phases).astype(np.int64)
