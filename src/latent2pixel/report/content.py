"""What a report shows, as plain data: a command fills it from what its run measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """One held-out caption as both models paint it."""

    caption: str
    """What both were asked for."""
    source: NDArray[np.uint8]
    """Picture of the latent source, sRGB bytes of shape (H, W, 3)."""
    pixel: NDArray[np.uint8]
    """Picture of the pixel model from the same seed; its size may differ."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the run."""

    name: str
    """Such as "synthesize" or "train"."""
    seconds: float
    """Wall clock of the stage."""


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """What one picture of one size costs one of the two models, at batch 1."""

    model: Literal["source", "pixel"]
    """Which of the two."""
    size_px: int
    """Width and height of the picture."""
    step_ms: float
    """Median time of one sampling step."""
    decode_ms: float
    """Median time from the last step to the finished picture."""
    image_ms: float
    """Median time of a whole picture."""
    peak_mb: float | None
    """Largest memory above that of the loaded model; None where the machine cannot tell."""


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """Everything that one report shows."""

    title: str
    """Headline of the page."""
    source_name: str
    """Name of the model that was transferred."""
    pairs: Sequence[ImagePair]
    """Pictures of both models, the first thing that a reader sees; unselected, or the reader is misled."""
    source_score: Mapping[str, Any]
    """Score of the source: score, standard_error, chance, num_images, num_captions, tasks (the same for each task)."""
    pixel_score: Mapping[str, Any]
    """Score of the pixel model on the same captions, in the same form."""
    retention: float
    """Pixel score divided by source score."""
    retention_error: float
    """Standard error of the retention; NaN where the source scores nothing."""
    loss_curve: Sequence[tuple[int, float]] = ()
    """(step, training loss)."""
    score_curve: Sequence[tuple[int, float, float]] = ()
    """(step, score, standard error) of the pixel model on the way."""
    stages: Sequence[Stage] = ()
    """Stages of the run in their order."""
    costs: Sequence[CostRow] = ()
    """Sampling cost: for each size, a row of the source and one of the pixel model."""
    facts: Sequence[tuple[str, str]] = ()
    """(label, value) of what is needed to judge and to repeat the run: hardware, date, seeds, steps, recipe."""
