"""Frozen blocks that live in host memory and visit the device when they run: once forward, once to be recomputed.

Not diffusers' group offloading, which is made for inference: without a stream it copies weights back each time although
they have not changed, with one it fetches blocks ahead in the order of the forward pass, in the backward pass too; and
where recomputation stops early (torch's default) it leaves them on the device.
"""

from typing import Any

import torch
from torch import nn

from latent2pixel.errors import ConfigError
from latent2pixel.model.predict import unwrapped


class _Visitor:
    """A block whose parameters are on the device while it runs, and in host memory otherwise."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self.device = device
        self.places = [
            (module, name, _in_host_memory(parameter, device))
            for module in block.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self.leave()
        block.register_forward_pre_hook(self.enter)
        # Recomputation ends with an exception once it has what the backward pass needs; the block leaves all the same.
        block.register_forward_hook(self.leave, always_call=True)

    def enter(self, *_: Any) -> None:
        """Put copies on the device in the parameters' places; what a graph keeps of them stays there, as it should."""
        for module, name, parameter in self.places:
            # A copy even where host and device are one, so that runs on a CPU do the same.
            moved = parameter.detach().to(self.device, non_blocking=True, copy=True)
            module._parameters[name] = nn.Parameter(moved, requires_grad=False)

    def leave(self, *_: Any) -> None:
        """Put the parameters in host memory back in their places."""
        for module, name, parameter in self.places:
            module._parameters[name] = parameter


def offload_frozen_blocks(model: nn.Module, device: torch.device | str) -> list[str]:
    """Keep the trunk's blocks that do not train in host memory, and move everything else to the device.

    Losses and gradients stay the same to the last bit. A block's weights cross the bus twice a step; one or two blocks
    are on the device at a time. Call it after the weights have been frozen and shrunk and before ``frozen_copy``, whose
    copy then shares the host memory; after it the model is not to be moved any more. Proved on CPUs alone, where the
    device is a second copy in the same memory: it has never run on a GPU. There host memory is pinned, except that of
    small weights.

    Args:
        model: A pixel transformer with gradient checkpointing.
        device: Where the model runs.

    Returns:
        Names of the blocks in host memory.

    Raises:
        ConfigError: Activations are not checkpointed, so the backward pass would keep every block on the device; or
            the weights are NF4.
    """
    pixel, target = unwrapped(model), torch.device(device)
    blocks = {
        f"{name}.{index}": block
        for name in pixel.trunk.image_blocks
        for index, block in enumerate(pixel.get_submodule(name))
        if not any(parameter.requires_grad for parameter in block.parameters())
    }
    _require_checkpointing(pixel)
    _require_movable(blocks)
    visitors = [_Visitor(block, target) for block in blocks.values()]
    places = [place for visitor in visitors for place in visitor.places]
    for module, name, _ in places:
        module._parameters[name] = None
    try:
        pixel.to(target)
    finally:
        for visitor in visitors:
            visitor.leave()
    return list(blocks)


def _in_host_memory(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    host = parameter.detach().to("cpu")
    # Only the memory of plain tensors: what torchao's allow is not known without a GPU.
    if device.type == "cuda" and type(parameter.data) is torch.Tensor:
        host = host.pin_memory()
    return nn.Parameter(host, requires_grad=False)


def _require_checkpointing(pixel: Any) -> None:
    if not pixel.is_gradient_checkpointing:
        raise ConfigError(
            "Blocks in host memory need their activations recomputed",
            found="block_offload without gradient_checkpointing",
            expected="gradient_checkpointing=true: else the backward pass keeps every block on the device",
            fix="Set gradient_checkpointing=true, or leave block_offload out.",
        )


def _require_movable(blocks: dict[str, nn.Module]) -> None:
    """What NF4 weights mean is told by attributes beside them, which copies lose."""
    if any(hasattr(parameter, "quant_state") for block in blocks.values() for parameter in block.parameters()):
        raise ConfigError(
            "Weights of 4 bits stay on the device",
            found="block_offload with frozen_weights=nf4",
            expected="frozen_weights stored, int8 or float8",
            fix="Choose frozen_weights=int8, or leave block_offload out.",
        )
