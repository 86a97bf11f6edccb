"""The conversion plan: which tensors are kept, made anew and dropped, decided before any weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from latent2pixel.errors import CheckpointError
from latent2pixel.families.base import Family
from latent2pixel.model.trunk import is_under

Shapes = Mapping[str, tuple[int, ...]]
"""State-dict key -> shape."""


@dataclass(frozen=True, kw_only=True)
class ConversionPlan:
    """Keys and shapes of a conversion."""

    kept: dict[str, tuple[int, ...]]
    """Tensors that the pixel model takes over from its source."""
    new: dict[str, tuple[int, ...]]
    """Tensors that start at random: input projection and detailer head."""
    dropped: dict[str, tuple[int, ...]]
    """Tensors of the source that the pixel model has no use for."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of tensors and parameters of each kind, as written to ``conversion.json``."""
        kinds = {"kept": self.kept, "new": self.new, "dropped": self.dropped}
        return {kind: {"tensors": len(shapes), "parameters": _size(shapes)} for kind, shapes in kinds.items()}

    def describe(self) -> str:
        """Return the plan as a short text for a terminal."""
        lines = [
            f"{kind:8}{count['tensors']:5} tensors {count['parameters'] / 1e6:10.3f} M parameters"
            for kind, count in self.counts().items()
        ]
        lines += [
            f"  new      {key} {_shape(shape)}" for key, shape in self.new.items() if not is_under(key, ("head",))
        ]
        lines += [f"  new      head.* ({sum(is_under(key, ('head',)) for key in self.new)} tensors)"]
        lines += [f"  dropped  {key} {_shape(shape)}" for key, shape in self.dropped.items()]
        return "\n".join(lines)


def plan_conversion(source: Shapes, pixel: Shapes, *, family: Family) -> ConversionPlan:
    """Sort every key of source and pixel model into kept, new and dropped.

    Args:
        source: Keys and shapes of the source transformer.
        pixel: Keys and shapes of the pixel model.
        family: Declares which parts are new and which are dropped; nothing else may differ.

    Raises:
        CheckpointError: If the source lacks a key, has an unknown one, or has one of another shape.
    """
    new = {key: shape for key, shape in pixel.items() if is_under(key, family.new_parts)}
    kept = {key: shape for key, shape in pixel.items() if key not in new}
    replaced = (*family.tail, *family.input_projections)
    dropped = {key: shape for key, shape in source.items() if is_under(key, replaced) and key not in kept}
    missing = sorted(kept.keys() - source.keys())
    extra = sorted(source.keys() - kept.keys() - dropped.keys())
    reshaped = [
        f"{key} {_shape(source[key])} for {_shape(shape)}"
        for key, shape in kept.items()
        if key in source and tuple(source[key]) != tuple(shape)
    ]
    if missing or extra or reshaped:
        raise CheckpointError(
            f"The source's weights are not those of a {family.transformer_class.__name__} of its configuration",
            found=f"{len(missing)} keys missing {missing[:3]}, {len(extra)} keys not expected {extra[:3]}, "
            f"{len(reshaped)} of another shape {reshaped[:3]}",
            expected=f"{len(kept)} keys to keep and {len(dropped)} to drop",
            fix="Download the source again, or install the diffusers version that it was saved with.",
        )
    return ConversionPlan(kept=kept, new=new, dropped=dropped)


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of a model's state dict; works on the meta device."""
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _size(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
