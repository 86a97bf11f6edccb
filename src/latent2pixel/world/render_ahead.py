"""Rendering scenes in other processes, ahead of the network that waits for them. Imports no torch: neither do they.

Shape letters: B batch, H height, W width, C channels (3, sRGB).
"""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

from latent2pixel.world.render import render
from latent2pixel.world.scenes import Scene

BATCHES_AHEAD = 2
"""For each process: one that it renders, one that waits for it."""


def render_all(scenes: Sequence[Scene], resolution_px: int) -> NDArray[np.uint8]:
    """Render scenes of one size: (B, H, W, C)."""
    return np.stack([render(scene, resolution_px) for scene in scenes])


def render_ahead(
    batches: Iterable[Sequence[Scene]], resolution_px: int, *, num_processes: int
) -> Iterator[NDArray[np.uint8]]:
    """Render batches of scenes in order, some of them ahead; the pictures are the same for any number of processes.

    Args:
        batches: Read as far as is rendered.
        resolution_px: Width and height.
        num_processes: Processes that render beside this one; 0 renders here, when asked.

    Yields:
        Pictures of each batch, (B, H, W, C).
    """
    if num_processes == 0:
        yield from (render_all(scenes, resolution_px) for scenes in batches)
        return
    # Not forked: a process with a GPU or with threads must not be.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        for scenes in batches:
            waiting.append(pool.submit(render_all, scenes, resolution_px))
            if len(waiting) > BATCHES_AHEAD * num_processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
