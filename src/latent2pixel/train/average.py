"""Averages of the trained weights."""

from collections.abc import Iterable

import numpy as np
from diffusers.training_utils import EMAModel
from torch import nn

from latent2pixel.train.config import TrainConfig


def average_of(parameters: Iterable[nn.Parameter], config: TrainConfig) -> EMAModel | None:
    """Return the running average of parameters that a run asks for, none if it keeps none."""
    if not config.ema_decay:
        return None
    if config.ema_relative_std is None:
        return EMAModel(parameters, decay=config.ema_decay)
    exponent = power_of(config.ema_relative_std)
    # EMAModel: 1 - (1 + t / inv_gamma)**-power, with power 1 the share of a step is inv_gamma / (t + inv_gamma).
    return EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, inv_gamma=exponent + 1, power=1.0)


def power_of(relative_std: float) -> float:
    """Return the exponent of the power function average with a spread relative to the run's length.

    Args:
        relative_std: Above 0, below ``config.MAX_RELATIVE_STD``.

    Source:
        Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696),
        section 3.1: ``std**2 = (g + 1) / ((g + 2)**2 (g + 3))``.
    """
    # (g + 2)**2 (g + 3) - (g + 1) / std**2 = 0; the largest root is the exponent.
    inverse = relative_std**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())
