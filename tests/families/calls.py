"""Calls of transformers, as stock pipelines make them."""

import inspect

import torch
from tests.tiny import tiny_source


def recorded_calls(model):
    """Keep the named arguments of every call of a transformer from now on."""
    names, calls = list(inspect.signature(type(model).forward).parameters)[1:], []
    if names[0] == "args":  # a pixel transformer takes whatever its base takes
        names = list(model._trunk_arguments)
    model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(dict(zip(names, args, strict=False), **kwargs)), with_kwargs=True
    )
    return calls


def shown(name, call):
    """Return a call with zeros where a mask hides states; pipelines may send there what the cache leaves out."""
    for states, mask in getattr(tiny_source(name), "MASKED", {}).items():
        if call[mask] is not None:
            hidden = ~call[mask].bool()
            call = {**call, states: call[states].masked_fill(hidden[(...,) + (None,) * (call[states].ndim - 2)], 0)}
    return call


def equal(theirs, mine):
    """Tell whether two arguments are equal, bit for bit."""
    if isinstance(theirs, torch.Tensor):
        return isinstance(mine, torch.Tensor) and theirs.dtype == mine.dtype and torch.equal(theirs, mine)
    if isinstance(theirs, (list, tuple)):
        return len(theirs) == len(mine) and all(map(equal, theirs, mine))
    if isinstance(theirs, dict):
        return theirs.keys() == mine.keys() and all(equal(theirs[key], mine[key]) for key in theirs)
    return theirs == mine
