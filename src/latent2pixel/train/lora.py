"""LoRA on the trunk's blocks, in place of training the blocks at its ends.

Shape letters: O outputs and I inputs of a linear layer, R the rank.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from latent2pixel.errors import ConfigError
from latent2pixel.io.merge import LowRank
from latent2pixel.model.predict import unwrapped
from latent2pixel.model.trunk import is_under
from latent2pixel.seeds import step_generator

ADAPTER = "default"
"""Diffusers' own name for an adapter that has none; a part of the parameters' names."""
DOWN, UP = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"
"""How the parameters of a LoRA are named behind their layer, R x I and O x R."""
FILE_NAME = "pytorch_lora_weights.safetensors"
"""Where ``load_lora_weights`` looks in a folder."""


def is_lora(name: str) -> bool:
    """Tell whether a parameter is one of a LoRA."""
    return name.endswith((DOWN, UP))


def scale_of(rank: int, alpha: float | None) -> float:
    """Return the factor of a LoRA's product, ``alpha / rank``; without alpha it is 1.

    Source:
        Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1.
    """
    return 1.0 if alpha is None else alpha / rank


def lora_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers that get a LoRA, by name: every linear one of the trunk's blocks that a gradient reaches.

    Args:
        model: A pixel transformer as it was loaded, on any device, the meta device too.

    Raises:
        ConfigError: Diffusers puts no adapters into this transformer.
    """
    pixel: Any = unwrapped(model)
    if not hasattr(pixel, "add_adapter"):
        raise ConfigError(
            "Diffusers puts no LoRA into this transformer",
            found=f"lora_rank above 0 with {type(pixel).__name__}",
            expected="lora_rank=0",
            fix="Leave lora_rank out: the blocks at the ends of the trunk train instead.",
        )
    unreached = pixel.trunk.unreached(pixel)
    # Not subclasses of nn.Linear: other code than their own forward reads them, such as torch's attention.
    return {
        name: module
        for name, module in pixel.named_modules()
        if type(module) is nn.Linear and is_under(name, pixel.trunk.image_blocks) and not is_under(name, unreached)
    }


def add_lora(model: nn.Module, names: list[str], *, rank: int, alpha: float | None, seed: int) -> list[str]:
    """Add LoRAs to layers, in place: float32, and without effect until they are trained.

    Args:
        model: A pixel transformer.
        names: Layers, as ``lora_layers`` returns them; their weights may have been made small since.
        rank: R.
        alpha: See ``scale_of``.
        seed: Of the run.

    Returns:
        Names of the parameters that were added. Which of the others train is undone.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ConfigError(
            "lora_rank needs a library that is not installed",
            found=str(error),
            expected="the package peft",
            fix="Install it with `pip install 'latent2pixel[train]'`, or leave lora_rank out.",
        ) from error
    pixel: Any = unwrapped(model)
    # An expression is matched against whole names; peft matches the ends of names in a list.
    exactly = "|".join(map(re.escape, names))
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=exactly)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global state
        pixel.add_adapter(config, ADAPTER)
    added = [name for name, _ in pixel.named_parameters() if is_lora(name)]
    for number, name in enumerate(added):
        module = pixel.get_submodule(name.removesuffix(".weight")).float()
        if name.endswith(DOWN):
            drawn_RI = torch.empty(module.weight.shape)
            # As nn.Linear starts, which peft takes too; drawn on the CPU, so that every device starts alike.
            nn.init.kaiming_uniform_(drawn_RI, a=5**0.5, generator=step_generator(seed, number))
            with torch.no_grad():
                module.weight.copy_(drawn_RI)
    cast_lora_inputs(pixel, enabled=False)
    return added


def cast_lora_inputs(model: nn.Module, *, enabled: bool) -> None:
    """Let LoRAs bring their inputs to their own dtype, which a model in bfloat16 needs outside of autocast.

    Under autocast it would cost a copy of the input for each layer that reads it, held until the backward pass.

    Args:
        model: A pixel transformer; without LoRAs nothing happens.
        enabled: Whether they do.
    """
    for module in unwrapped(model).modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = enabled


def with_low_ranks(trained: Mapping[str, Tensor], *, scale: float) -> dict[str, Tensor | LowRank]:
    """Return trained weights with the two matrices of each LoRA as one change of its layer's weight.

    Args:
        trained: Trained parameters by name.
        scale: Of the LoRAs.
    """
    changes: dict[str, Tensor | LowRank] = {}
    for name, value in trained.items():
        if name.endswith(UP):
            layer = name.removesuffix(UP)
            changes[f"{layer}.weight"] = LowRank(down_RI=trained[layer + DOWN], up_OR=value, scale=scale)
        elif not is_lora(name):
            changes[name] = value
    return changes


def save_lora(folder: Path, changes: Mapping[str, Tensor | LowRank]) -> None:
    """Write the LoRAs alone, as ``load_lora_weights`` of diffusers reads them.

    Where the stock pipeline has it not, ``transformer.load_lora_adapter(folder, weight_name=FILE_NAME)`` reads them.
    The scale is in the second matrix, so that programs that know of no alpha read the same.

    Args:
        folder: Folder to write into, which is there.
        changes: As ``with_low_ranks`` returns them; other weights are left out.
    """
    weights = {}
    for name, change in changes.items():
        if isinstance(change, LowRank):
            layer = f"transformer.{name.removesuffix('.weight')}"
            weights[f"{layer}.lora_A.weight"] = change.down_RI.detach().cpu().contiguous()
            weights[f"{layer}.lora_B.weight"] = (change.scale * change.up_OR.detach().cpu()).contiguous()
    save_file(weights, folder / FILE_NAME, metadata={"format": "pt"})
