"""Frozen blocks in shards: each process holds a part of every block, and all gather a block when it runs (FSDP2).

Only what never trains is sharded. Trained weights stay whole on every process, and their gradients are averaged as in
plain DDP, so checkpoints and averages are those of one process.
"""

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from latent2pixel.errors import ConfigError
from latent2pixel.model.predict import unwrapped


def shard_frozen_blocks(model: nn.Module, device: torch.device) -> int:
    """Keep one share of what is frozen in each block of the trunk on every process; the rest is fetched when it runs.

    A block crosses the network twice a step, three times with recomputed activations. Every process must run the model
    whenever one of them does, in validation too.

    Args:
        model: A pixel transformer whose parameters were frozen by ``freeze_all_but``, with weights as they are stored.
        device: Where it runs.

    Returns:
        Number of weights that are in shards.

    Raises:
        ConfigError: There is one process alone.
    """
    if not torch.distributed.is_initialized():
        raise ConfigError(
            "One process has nobody to share its frozen blocks with",
            found="shard_frozen=true in one process",
            expected="several processes, such as torchrun --nproc-per-node 8",
            fix="Start it with torchrun, or leave shard_frozen out.",
        )
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    pixel: Any = unwrapped(model)
    num_sharded = 0
    for name in pixel.trunk.image_blocks:
        for block in pixel.get_submodule(name):
            parts = _in_one_dtype([parameter for parameter in block.parameters() if not parameter.requires_grad])
            if parts:
                whole = {parameter for parameter in block.parameters() if all(parameter is not part for part in parts)}
                fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
                num_sharded += sum(part.numel() for part in parts)
    return num_sharded


def _in_one_dtype(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters of the dtype that most weights have: one gathering has one dtype."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in parameters:
        sizes[parameter.dtype] += parameter.numel()
    return [parameter for parameter in parameters if parameter.dtype == sizes.most_common(1)[0][0]]
