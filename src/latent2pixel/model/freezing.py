"""Which parameters train: the published presets, by parameter name."""

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from latent2pixel.errors import ConfigError
from latent2pixel.model.predict import unwrapped
from latent2pixel.model.trunk import is_under

PRESETS = ("paper", "released", "output")


@dataclass(frozen=True, kw_only=True)
class TrainableShare:
    """How much of a pixel model trains."""

    num_trainable: int
    """Trainable parameters."""
    num_total: int
    """All parameters."""
    num_trainable_tensors: int
    """Trainable tensors."""
    num_tensors: int
    """All tensors."""

    @property
    def share(self) -> float:
        """Trainable parameters over all, in [0, 1]."""
        return self.num_trainable / self.num_total


def trainable_names(
    model: nn.Module, *, preset: str = "paper", num_blocks: int = 5, to_tokens: bool = False
) -> tuple[str, ...]:
    """Return the names of the parameters that train, in the model's order.

    Blocks are those of the family's main list: refiners and text-only blocks do not count. What no gradient reaches
    (``Trunk.unreached``) never trains.

    Args:
        model: A pixel transformer.
        preset: ``"paper"`` trains the input projection, the first and last blocks, the head, and with a lift its
            decode, stem and the source's own tail; ``"released"`` trains
            everything but the middle blocks: refiners, embedders and pad tokens too; ``"output"`` trains the last
            blocks and what lies behind them, so that no gradient is stored for the rest of the trunk.
        num_blocks: n, blocks at each end that train; from half of the blocks on, all of them train.
        to_tokens: Leave out what an objective on the lift's latent tokens does not reach, head and decode.

    Raises:
        ConfigError: For an unknown preset, or more blocks at one end than there are.

    Source:
        "paper": L2P (arXiv 2605.12013) section 3.3. "released": ``freeze_except`` of the released code, which the
        dtypes in the header of the released Z-Image weights confirm.
    """
    if preset not in PRESETS:
        raise ConfigError(
            "There is no freezing preset of that name",
            found=repr(preset),
            expected=f"one of {', '.join(map(repr, PRESETS))}",
            fix="Use 'paper' for the method as published, 'released' for the way the public weights were made, "
            "'output' for the output side alone.",
        )
    pixel = unwrapped(model)
    blocks = [f"{name}.{index}" for name in pixel.trunk.image_blocks for index in range(len(pixel.get_submodule(name)))]
    if not 0 <= num_blocks <= len(blocks):
        raise ConfigError(
            "The model has fewer blocks than shall train at each end",
            found=f"num_blocks {num_blocks}, {len(blocks)} blocks",
            expected=f"0 to {len(blocks)}",
            fix=f"Set num_blocks to at most {len(blocks)}.",
        )
    ends = {*blocks[:num_blocks], *blocks[len(blocks) - num_blocks :]}
    behind_tokens = ("head", "lift.decode")
    left_out = (*pixel.trunk.unreached(pixel), *(behind_tokens if to_tokens else ()))
    names = [name for name, _ in pixel.named_parameters() if not is_under(name, left_out)]
    if preset == "released":
        middle = tuple(block for block in blocks if block not in ends)
        return tuple(name for name in names if not is_under(name, middle))
    if preset == "paper":
        parts = (*pixel.trunk.new_parts, *pixel.trunk.tail, *ends)
    else:
        parts = (*behind_tokens, *pixel.trunk.tail, *blocks[len(blocks) - num_blocks :])
    return tuple(name for name in names if is_under(name, parts))


def frozen_copy(model: nn.Module) -> Any:
    """Return the model as it is now, for inference: trainable parameters copied, frozen ones shared.

    Args:
        model: A pixel transformer whose parameters were frozen by ``freeze_all_but``.
    """
    pixel = unwrapped(model)
    shared = {id(parameter): parameter for parameter in pixel.parameters() if not parameter.requires_grad}
    return copy.deepcopy(pixel, memo=shared).requires_grad_(False).eval()


def freeze_all_but(model: nn.Module, names: Iterable[str]) -> None:
    """Let exactly the named parameters require gradients.

    Args:
        model: A pixel transformer.
        names: Parameter names as ``trainable_names`` returns them.

    Raises:
        KeyError: If a name is no parameter of the model.
    """
    parameters = dict(unwrapped(model).named_parameters())
    trainable = set(names)
    if unknown := trainable - parameters.keys():
        raise KeyError(f"not parameters of the model: {sorted(unknown)[:3]}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trainable)


def describe(model: nn.Module, names: Collection[str]) -> TrainableShare:
    """Count what trains when the named parameters do; works on the meta device too.

    Args:
        model: A pixel transformer.
        names: Parameter names as ``trainable_names`` returns them.
    """
    sizes = {name: parameter.numel() for name, parameter in unwrapped(model).named_parameters()}
    return TrainableShare(
        num_trainable=sum(sizes[name] for name in names),
        num_total=sum(sizes.values()),
        num_trainable_tensors=len(names),
        num_tensors=len(sizes),
    )
