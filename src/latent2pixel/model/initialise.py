"""Fresh weights for new parts: torch's defaults, drawn from a passed generator instead of the global one."""

import math

import torch
from torch import nn


@torch.no_grad()
def initialise_like_torch(module: nn.Module, *, generator: torch.Generator) -> None:
    """Fill every linear and convolution layer of a module as its own ``reset_parameters`` would.

    Args:
        module: Holds ``nn.Linear`` and ``nn.Conv2d`` layers; other layers must have no parameters of their own.
        generator: Source of randomness, on the device of the parameters.

    Raises:
        TypeError: If a layer of another type holds parameters.

    Source:
        torch ``nn.Linear.reset_parameters``: weight and bias uniform in +-1 / sqrt(fan_in); the released L2P weights
        started from these defaults too.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            # kaiming_uniform_ with a = sqrt(5) has the bound 1 / sqrt(fan_in)
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif next(layer.parameters(recurse=False), None) is not None:
            raise TypeError(f"no default initialisation known for {type(layer).__name__}")
