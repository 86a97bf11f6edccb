"""Norm and projection behind a trunk's last block: passed through, or run aside while the hidden states pass.

Shape letters: D trunk width, d values of a latent token, N normed values (D wherever a norm is a norm).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class PassThrough(nn.Module):
    """Stands in for a final norm or projection and returns its input; modulation arguments are ignored."""

    def forward(self, hidden: Tensor, *_modulation: Any, **_named_modulation: Any) -> Tensor:
        """Return the hidden states as they came."""
        return hidden


class Keep(PassThrough):
    """A ``PassThrough`` that keeps what it returned, for trunks whose own way out cannot carry hidden states."""

    def forward(self, hidden: Tensor, *modulation: Any, **named_modulation: Any) -> Tensor:
        """Return the hidden states as they came."""
        self.kept: Tensor | None = hidden
        return super().forward(hidden, *modulation, **named_modulation)

    def take(self) -> Tensor:
        """Return the hidden states of the last call, and forget them."""
        kept, self.kept = self.kept, None
        if kept is None:
            raise RuntimeError("nothing was kept: the trunk has not run")
        return kept


def pass_through(model: nn.Module, tail: Sequence[str]) -> None:
    """Replace the named modules by ones that return their input, and named parameters by None."""
    for name in tail:
        parent, _, last = name.rpartition(".")
        owner = model.get_submodule(parent)
        if last in owner._parameters:
            owner.register_parameter(last, None)
        else:
            owner.register_module(last, PassThrough())


def tap(model: nn.Module, tail: Sequence[str], *, projection: str, num_values: int) -> None:
    """Let a trunk return its hidden states and, behind them, what its tail makes of them: D + d values a token.

    The modules keep their names. Hooks reach them by argument, so copies of the model work.

    Args:
        model: Transformer of the pixel model, just built.
        tail: One module that norms and projects, or a norm and a projection; parameters among them stay.
        projection: The last linear layer, which is given its source's size back.
        num_values: d.
    """
    old: Any = model.get_submodule(projection)
    parent, _, last = projection.rpartition(".")
    resized = nn.Linear(old.in_features, num_values, bias=old.bias is not None, device=old.weight.device)
    model.get_submodule(parent).register_module(last, resized.to(old.weight.dtype))
    modules = [model.get_submodule(name) for name in tail if name not in dict(model.named_parameters(recurse=False))]
    modules[0].register_forward_hook(_append_to_input, with_kwargs=True)
    if len(modules) > 1:
        modules[-1].register_forward_pre_hook(_set_hidden_aside)
        modules[-1].register_forward_hook(_put_hidden_back)


def _append_to_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Hook of a norm, or of a whole tail: return the hidden states with its output behind them."""
    hidden = args[0] if args else next(iter(kwargs.values()))
    return torch.cat([hidden, output], dim=-1)


def _set_hidden_aside(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hook of a projection: let it see the normed values only."""
    num_normed, joined = module.in_features, args[0]
    module.aside = joined[..., :-num_normed]
    # Joining promoted to the wider of two dtypes; quantised weights take what they are given.
    dtype = module.weight.dtype if module.weight.is_floating_point() else joined.dtype
    return (joined[..., -num_normed:].to(dtype), *args[1:])


def _put_hidden_back(module: Any, _: tuple[Any, ...], output: Tensor) -> Tensor:
    """Hook of a projection: return the hidden states with its output behind them."""
    hidden, module.aside = module.aside, None
    return torch.cat([hidden, output], dim=-1)
