"""Weights of new parts: torch's defaults, drawn from a passed generator, or the closed form of a lift.

Shape letters: D values of a pixel patch, w width of the trunk.
"""

import math
from typing import Any, cast

import torch
from torch import nn

from latent2pixel.model.lift import LiftFit


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


@torch.no_grad()
def start_from_lift(model: Any, fit: LiftFit, transformer: Any, *, generator: torch.Generator) -> None:
    """Set the new parts of a pixel model to the closed form: projection of the lifted pixels, silent head.

    Args:
        model: Pixel transformer, its new parts in memory.
        fit: Of the lift.
        transformer: The source.
        generator: CPU generator, for a fit with a random projection.
    """
    model.lift.load_fit(fit)
    # The head first learns without the trunk (convert.warm_up), whose features must not disturb it afterwards.
    width, joint = model.trunk.width(model), cast(nn.Conv2d, model.head.bottleneck[0])
    start = joint.in_channels - width - fit.basis_Dd.shape[1]
    nn.init.zeros_(joint.weight[:, start : start + width])
    for parameter in model.head.out_conv.parameters():
        nn.init.zeros_(parameter)
    for name in model.trunk.input_projections:
        source: Any = transformer.get_submodule(name)
        pixel: Any = model.get_submodule(name)
        # A convolution over whole patches is a matrix of (channel, row, column).
        weight_wD = source.weight.flatten(1).float().cpu() @ fit.basis_Dd.T
        pixel.weight.copy_(weight_wD[:, model.patch_order()].view_as(pixel.weight))
        if fit.projection_std is not None:
            nn.init.normal_(pixel.weight, std=fit.projection_std, generator=generator)
        if pixel.bias is not None:
            pixel.bias.copy_(source.bias.float().cpu())
