"""One of two processes that share a batch: `torchrun --nproc_per_node 2 two_processes.py`; fails if one is wrong.

With weights as they are stored, and with int8, which DistributedDataParallel cannot broadcast; with frozen blocks in
shards.
"""

import pytest
import torch
from tests.tiny import GRID, PROMPTS, noise, tiny_pipeline, tiny_pixel_pipeline
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from latent2pixel.families import load_family
from latent2pixel.model import freezing
from latent2pixel.model.predict import predict
from latent2pixel.train.frozen_shards import shard_frozen_blocks
from latent2pixel.train.frozen_weights import keep_frozen_out_of_ddp, shrink_frozen


def frozen_model(kind):
    model = tiny_pixel_pipeline("z_image").transformer.train()
    freezing.freeze_all_but(model, freezing.trainable_names(model, num_blocks=1))
    shrink_frozen(model, kind)
    return model


def loss_of(model, inner, places):
    family = load_family("z_image")
    encoded = family.encode(tiny_pipeline("z_image"), PROMPTS)
    conditioning = family.collate(inner, [encoded[place] for place in places], GRID)
    image_BCHW = noise(2, 3, GRID[0] * 16, GRID[1] * 16)[places]
    return predict(model, image_BCHW, torch.tensor([0.5, 0.9])[places], conditioning).square().mean()


def check(kind, rank):
    whole = frozen_model(kind)
    loss_of(whole, whole, [0, 1]).backward()
    model = frozen_model(kind)
    # What differs in the second process: of a trained weight nothing may stay, a frozen one is its own affair.
    frozen = model.layers[1].attention_norm1.weight
    before = frozen.detach().clone()
    with torch.no_grad():
        model.head.out_conv.bias.add_(rank)
        frozen.add_(rank)
    keep_frozen_out_of_ddp(model)
    wrapped = DistributedDataParallel(model)
    assert torch.equal(frozen, before + rank)
    assert torch.equal(model.head.out_conv.bias, whole.head.out_conv.bias)
    with torch.no_grad():
        frozen.copy_(before)
    loss_of(wrapped, model, [rank]).backward()
    expected = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Sums over two images in another order; 1e-6 of the largest gradient is some bits of float32.
            largest = expected[name].grad.abs().max().item()
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-5 * largest)


def held_weights(model):
    """Return how many weights this process holds of a model."""
    parts = (parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in model.parameters())
    return sum(part.numel() for part in parts)


def check_shards(dtype, rank, *, checkpointing):
    """Frozen blocks in shards: half of them on each process, and the gradients of one process."""

    def built():
        model = frozen_model("stored")
        for block in model.layers[1:3]:
            block.attention.to(dtype)  # a few weights of another dtype, as where a source keeps some in float32
        if checkpointing:
            model.enable_gradient_checkpointing()
        return model

    whole, model = built(), built()
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(whole, whole, [0, 1]).backward()
    num_sharded = shard_frozen_blocks(model, torch.device("cpu"))
    assert num_sharded > 0.4 * sum(p.numel() for block in model.layers[1:3] for p in block.parameters())
    keep_frozen_out_of_ddp(model)
    wrapped = DistributedDataParallel(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(wrapped, model, [rank]).backward()
    saved = sum(parameter.numel() for parameter in whole.parameters()) - held_weights(model)
    assert saved == pytest.approx(num_sharded / 2, rel=0.02)
    expected = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            largest = expected[name].grad.abs().max().item()
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=0, atol=0.02 * largest)  # bfloat16


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for kind in ("stored", "int8"):
        check(kind, distributed.get_rank())
    for number, dtype in enumerate((torch.float32, torch.bfloat16)):
        check_shards(dtype, distributed.get_rank(), checkpointing=bool(number))
    distributed.destroy_process_group()
