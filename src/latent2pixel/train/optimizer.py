"""AdamW as torch has it, and with states of 8 bits."""

from typing import Any

import torch

from latent2pixel.errors import ConfigError
from latent2pixel.train.config import OptimizerName, TrainConfig


def optimizer_class(name: OptimizerName) -> Any:
    """Return the class of an optimiser, which takes parameters or groups, ``lr``, ``betas`` and ``weight_decay``.

    States of 8 bits are kept for tensors of 4096 weights or more, in blocks of 256 with a scale each; smaller ones
    keep float32.

    Raises:
        ConfigError: bitsandbytes is not installed.

    Source:
        "adamw_8bit": Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861). Not
        torchao's: it compiles its step on first use and refuses a learning rate that is a plain number.
    """
    if name == "adamw":
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "optimizer=adamw_8bit needs a library that is not installed",
            found=str(error),
            expected="the package bitsandbytes",
            fix="Install it with `pip install 'latent2pixel[quant]'`, or choose optimizer=adamw.",
        ) from error
    return AdamW8bit


def build_optimizer(groups: list[dict[str, Any]], config: TrainConfig, *, device: torch.device) -> Any:
    """Return the optimiser of a run.

    Args:
        groups: Parameter groups, see ``for_model.rate_groups``.
        config: Settings of the run.
        device: Of the parameters.

    Raises:
        ConfigError: The library that it takes is not installed.
    """
    # One kernel for all tensors, where torch has it; on CPUs its rounding would differ from the plain one's.
    fused = {"fused": device.type == "cuda"} if config.optimizer == "adamw" else {}
    return optimizer_class(config.optimizer)(
        groups,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
        **fused,
    )
