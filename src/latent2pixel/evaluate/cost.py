"""Latency and memory of sampling, each measurement in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latent2pixel.errors import ConfigError, StateError
from latent2pixel.io.pipeline_folder import find_pipeline_folder, parse_dtype, require_complete

WORKER = "latent2pixel.evaluate.cost_worker"


@dataclass(frozen=True, kw_only=True)
class CostFigures:
    """What one picture of one size costs at batch 1."""

    size_px: int
    """Width and height of the picture."""
    step_ms: float
    """Median time of one sampling step, without the first, which also encodes the prompt."""
    decode_ms: float
    """Median time from the last step to the finished picture: decoding and conversion to bytes."""
    image_ms: float
    """Median time of a whole picture."""
    peak_mb: float | None
    """Largest memory in use above that of the loaded model; None where the operating system cannot tell."""


def measure_cost(
    model_folder: str | Path, *, sizes_px: Sequence[int], num_steps: int, seed: int, dtype: str | None = None
) -> list[CostFigures]:
    """Measure latency and peak memory of sampling through the stock pipeline, with its own default guidance.

    Every size gets a fresh process: what an earlier size left in memory would hide a later one's peak.

    Args:
        model_folder: Folder or id of a latent or pixel pipeline; measured on the GPU if there is one.
        sizes_px: Widths (and heights) of the pictures.
        num_steps: Sampling steps of one picture, two at least.
        seed: Seed of the noise.
        dtype: Name of a torch dtype, so that two models are compared in the same one;
            None keeps the one that the weights are stored in.

    Returns:
        Figures in the order of the sizes.

    Raises:
        ConfigError: Fewer than two steps, or no such dtype.
        SourceError: The folder is no pipeline.
        StateError: A measurement failed, such as for lack of memory.
    """
    if num_steps < 2:
        raise ConfigError(
            "the time of a step cannot be measured",
            found=f"num_steps = {num_steps}",
            expected="2 or more, as the first step also holds the encoding of the prompt",
            fix="Pass more steps.",
        )
    parse_dtype(dtype)  # a misspelt one is refused here, before a process starts
    folder = find_pipeline_folder(model_folder)
    require_complete(folder)
    return [_measure(folder, size_px, num_steps=num_steps, seed=seed, dtype=dtype) for size_px in sizes_px]


def _measure(folder: Path, size_px: int, *, num_steps: int, seed: int, dtype: str | None) -> CostFigures:
    command = [sys.executable, "-m", WORKER, str(folder), str(size_px), str(num_steps), str(seed)]
    command += [] if dtype is None else [dtype]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        last_lines = finished.stderr.strip().splitlines()[-1:] or ["no message"]
        raise StateError(
            f"the cost of {folder} at {size_px} px could not be measured",
            found=f"exit status {finished.returncode}: {last_lines[0]}",
            expected="a picture",
            fix="Choose a size that the model can make and that fits into memory (status -9: memory ran out).",
        )
    # Libraries may write to stdout as well; the figures are the last line.
    return CostFigures(**json.loads(finished.stdout.strip().splitlines()[-1]))
