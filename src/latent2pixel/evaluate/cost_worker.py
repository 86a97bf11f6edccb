"""One measurement of ``measure_cost``: run as ``python -m``, prints one JSON line.

Arguments: folder of the pipeline, size in pixels, number of steps, seed, and a torch dtype if not the stored one.
"""

import ctypes
import gc
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from latent2pixel.device import fastest_device
from latent2pixel.families import family_of
from latent2pixel.io.pipeline_folder import open_pipeline, parse_dtype

NUM_REPEATS = 3
"""Pictures behind a median, after one to warm up."""
PROMPT = "a red circle to the left of a blue square"
M_MMAP_THRESHOLD = -3
"""glibc, malloc.h: number of the option of ``mallopt``."""
MMAP_BYTES = 64 * 1024
"""Larger blocks then live in mappings of their own, which the system takes back at once when a tensor is freed."""


def main() -> None:
    """Measure and print."""
    folder, size_px, num_steps, seed = Path(sys.argv[1]), *(int(value) for value in sys.argv[2:5])
    pipe = open_pipeline(folder, dtype=parse_dtype(sys.argv[5] if len(sys.argv) > 5 else None))
    pipe.to(fastest_device())
    pipe.set_progress_bar_config(disable=True)
    runs = [_sample(pipe, size_px, num_steps=num_steps, seed=seed) for _ in range(1 + NUM_REPEATS)][1:]
    figures: dict[str, Any] = {
        "size_px": size_px,
        "step_ms": 1000 * statistics.median(step for steps, _, _ in runs for step in steps),
        "decode_ms": 1000 * statistics.median(decode for _, decode, _ in runs),
        "image_ms": 1000 * statistics.median(image for _, _, image in runs),
        "peak_mb": _peak_mb(pipe, size_px, num_steps=num_steps, seed=seed),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def _sample(pipe: Any, size_px: int, *, num_steps: int, seed: int) -> tuple[list[float], float, float]:
    """Make one picture and return the seconds of its steps but the first, of its decoding, and of all of it."""
    ends: list[float] = []

    def note(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        ends.append(_now())
        return tensors

    generator = torch.Generator("cpu").manual_seed(seed)
    started = _now()
    family_of(pipe.transformer).images(
        pipe,
        prompt=PROMPT,
        height=size_px,
        width=size_px,
        num_inference_steps=num_steps,
        generator=generator,
        callback_on_step_end=note,
    )
    finished = _now()
    steps = [end - start for start, end in itertools.pairwise(ends)]
    return steps, finished - ends[-1], finished - started


def _now() -> float:
    """Return the clock once all queued work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_mb(pipe: Any, size_px: int, *, num_steps: int, seed: int) -> float | None:
    """Return how far memory rises above the warm, loaded model's while one picture is made, in MB of 10**6 bytes.

    The first picture also loads code and fills caches, 30 MB on a CPU whatever the model, so it must be over.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _sample(pipe, size_px, num_steps=num_steps, seed=seed)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    if not _return_freed_memory() or not _reset_peak():
        return None
    before_kb = _status_kb("VmRSS")
    _sample(pipe, size_px, num_steps=num_steps, seed=seed)
    return (_status_kb("VmHWM") - before_kb) * 1024 / 1e6


def _return_freed_memory() -> bool:
    """Make the C library give freed tensors back to the system, or return False where that is not glibc.

    Otherwise the pictures of the warm-up leave a pool that the measured one reuses, and its peak looks like nothing.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        return False
    library.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
    library.malloc_trim(0)
    return True


def _reset_peak() -> bool:
    """Set the process's peak to its present memory; False where Linux does not allow it.

    Source:
        Linux manual, proc_pid_clear_refs(5): writing 5 resets VmHWM. getrusage has no reset and starts at the parent's.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
