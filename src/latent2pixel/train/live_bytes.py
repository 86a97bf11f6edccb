"""Tensors without data, and the bytes of all that are alive."""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

aten = torch.ops.aten
INDEXING = frozenset(
    {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
)
OTHER = "other"
"""Kind of what an operation made, until it is counted as something else."""


class LiveBytes(TorchDispatchMode):
    """While active, counts the storages that operations make, each until it is freed.

    Tensors without data (``FakeTensorMode``) count as if they had it. What a kernel needs inside itself is not seen.
    ``torch.distributed._tools.MemTracker`` counts alike, but it is private, hooks every module and knows no teacher.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[weakref.ref, str, int]] = {}
        self.now: Counter[str] = Counter()
        """Bytes alive by kind."""
        self.at_peak: Counter[str] = Counter()
        """The same at the moment when they were most."""
        self._total = self._most = 0

    def count(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count tensors as something, those too that were there before."""
        for tensor in tensors:
            self._see(tensor, kind)

    def restart(self) -> None:
        """Look for a new peak from now on."""
        self._most = -1
        self._look()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value, None)
        return result

    def _see(self, tensor: Tensor, kind: str | None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            reference, before, size = self._alive[key]
            if kind is not None and kind != before:
                self.now[before] -= size
                self.now[kind] += size
                self._alive[key] = (reference, kind, size)
            return
        size, kind = storage.nbytes(), kind or OTHER
        self._alive[key] = (weakref.ref(storage, lambda _: self._forget(key)), kind, size)
        self.now[kind] += size
        self._total += size
        self._look()

    def _forget(self, key: int) -> None:
        _, kind, size = self._alive.pop(key)
        self.now[kind] -= size
        self._total -= size

    def _look(self) -> None:
        if self._total > self._most:
            self._most, self.at_peak = self._total, self.now.copy()


class KnownPlaces(TorchDispatchMode):
    """While active, tensors without data can be indexed by masks with data, and tokens are routed evenly.

    A mask alone tells no length to a tensor without data: it is replaced by the places where it is true. Which experts
    a network chooses for a token hangs on its values, so here they take turns.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, with known places where it needs them."""
        if func in INDEXING:
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        result = func(*args, **(kwargs or {}))
        if func is aten.topk.default and isinstance(args[0], FakeTensor):
            values, places = result
            num_places = args[0].shape[args[2] if len(args) > 2 else -1]
            return values, (torch.arange(places.numel()) % num_places).view(places.shape)
        return result


def _places(index: Tensor | None) -> tuple[Tensor | None, ...]:
    if index is None or isinstance(index, FakeTensor) or index.dtype != torch.bool:
        return (index,)
    return index.nonzero(as_tuple=True)


def fake_tensor(shape: Iterable[int], dtype: torch.dtype, *, mode: Any) -> Tensor:
    """Return a tensor that has shape and dtype, says that it is on the CPU, and takes no memory.

    Args:
        shape: Its shape.
        dtype: Its dtype.
        mode: A ``FakeTensorMode``; tensors of two modes cannot meet.
    """
    with mode:
        return torch.empty(tuple(shape), dtype=dtype)


def drop_data(*modules: torch.nn.Module, dtype: torch.dtype, mode: Any) -> None:
    """Replace all parameters by ones without data, in place: in a dtype, or float32 where the class keeps that.

    Buffers stay what they are: tables that a forward pass reads numbers from. Parameters that several places or modules
    share stay shared.
    """
    fakes: dict[int, torch.nn.Parameter] = {}
    # The replaced ones stay alive to the end, so that no other gets their id.
    replaced = []
    for module in modules:
        kept = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
        for path, owner in module.named_modules():
            for name, parameter in owner._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) not in fakes:
                    full = any(part in kept for part in f"{path}.{name}".split("."))
                    fake = fake_tensor(parameter.shape, torch.float32 if full else dtype, mode=mode)
                    fakes[id(parameter)] = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
                    replaced.append(parameter)
                owner._parameters[name] = fakes[id(parameter)]
