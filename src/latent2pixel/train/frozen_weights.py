"""Frozen weights in eight or four bits: what never trains need not be kept in the precision that training needs.

Weights alone are rounded, never activations: the gradient through a rounded weight is exactly that of a network with
this weight, through activations that are rounded on the way it is not.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.nn.parallel import DistributedDataParallel

from latent2pixel.errors import ConfigError
from latent2pixel.model.predict import unwrapped
from latent2pixel.model.trunk import is_under
from latent2pixel.train.config import FrozenWeights

LIBRARIES = {"int8": "torchao", "float8": "torchao", "nf4": "bitsandbytes"}
MIN_WEIGHTS = 64
"""Smaller matrices stay as they are: 64 weights are one block of NF4, with a scale of its own."""


class FrozenLinear(nn.Linear):
    """A linear layer with small weights, which are made full size for each product and not kept for the backward pass.

    The libraries' own products are made for inference: torchao's keep a full-size copy of every weight until the
    backward pass, bitsandbytes' repack the weights on some CPUs once they have run without gradients, and fail in
    training afterwards.

    Whoever reads ``weight`` is given the matrix; ``parameters()`` and the state dict hold the small one.
    """

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """The matrix, full size, (out, in): some models read it, or its dtype, beside the layer's own forward."""
        small = self._parameters["weight"]
        return full_weight(small, getattr(small, "quant_state", None))

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input @ weight.T + bias``."""
        return _FrozenProduct.apply(input, self._parameters["weight"], self.bias)


class _FrozenProduct(torch.autograd.Function):
    """Linear layer of a frozen weight that passes a gradient to its input alone."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        # Saved tensors may come back without the attributes of their class.
        ctx.quant_state = getattr(weight, "quant_state", None)
        return F.linear(values, full_weight(weight, ctx.quant_state), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight = full_weight(ctx.saved_tensors[0], ctx.quant_state)
        return gradients[0] @ weight.to(gradients[0].dtype), None, None


def full_weight(weight: Any, quant_state: Any = None) -> Tensor:
    """Return a small weight as a plain matrix (out, in), in the dtype that it had.

    Args:
        weight: A weight of a ``FrozenLinear``.
        quant_state: What bitsandbytes knows of it; none for torchao's.
    """
    if quant_state is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight, quant_state)
    # ``weight.dequantize()`` but for the rounding of the scale, in a fifth of the time (bfloat16, 3840 x 3840, one CPU
    # core): int8 and float8 values are exact in every wider dtype.
    return weight.qdata.to(weight.dtype) * weight.scale.to(weight.dtype)


def shrink_frozen(model: nn.Module, kind: FrozenWeights) -> list[str]:
    """Replace the weights of a pixel model's frozen linear layers by small ones, in place.

    A layer stays as it is if one of its parameters trains, if the source keeps it in float32, or if it belongs to the
    new parts, which are small.

    Args:
        model: A pixel transformer whose parameters were frozen by ``freeze_all_but``, on any device.
        kind: "stored" changes nothing.

    Returns:
        Names of the layers that were replaced; their biases stay.

    Raises:
        ConfigError: The library that it takes is not installed.
    """
    if kind == "stored":
        return []
    _require_library(kind)
    replaced = []
    for name, module in shrinkable(model):
        module.weight = _small(module.weight.detach(), kind)
        # Another class, not another module: hooks and every place that holds the layer stay.
        module.__class__ = FrozenLinear
        replaced.append(name)
    return replaced


def shrinkable(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return name and module of every layer that ``shrink_frozen`` replaces; works on the meta device too."""
    pixel = unwrapped(model)
    exact = set(pixel._keep_in_fp32_modules or ())
    found = []
    for name, module in pixel.named_modules():
        # Subclasses of nn.Linear are read by other code than their own forward, such as torch's attention.
        if type(module) is not nn.Linear or any(parameter.requires_grad for parameter in module.parameters()):
            continue
        is_exact = exact & set(name.split(".")) or is_under(name, pixel.trunk.new_parts)
        if not is_exact and module.weight.numel() >= MIN_WEIGHTS:
            found.append((name, module))
    return found


def keep_frozen_out_of_ddp(model: nn.Module) -> None:
    """Tell DistributedDataParallel to leave frozen parameters and buffers alone; call it before it wraps the model.

    It would broadcast them from the first process, and cannot do so with torchao's weights. Every process has loaded
    the same ones.

    Args:
        model: The module that DistributedDataParallel is given.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [*frozen, *buffers])


def stored_bytes(parameters: Iterable[Tensor]) -> int:
    """Return the bytes that parameters take, small ones with their scales."""
    return sum(part.nbytes for parameter in parameters for part in stored_parts(parameter))


def stored_parts(parameter: Any) -> list[Tensor]:
    """Return the tensors that hold a parameter: itself, or a small one's codes and scales."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        return [parameter.data, state.absmax, state.code, *nested]
    if hasattr(parameter, "__tensor_flatten__"):
        return [getattr(parameter, name) for name in parameter.__tensor_flatten__()[0]]
    return [parameter]


def _small(weight: Tensor, kind: FrozenWeights) -> nn.Parameter:
    if kind == "nf4":
        from bitsandbytes.nn import Params4bit

        return Params4bit(weight, requires_grad=False, quant_type="nf4").to(weight.device)
    from torchao.quantization import Float8Tensor, Int8Tensor, PerRow

    # Not torchao's ``quantize_``: it also changes the process's matrix precision and settings of its compiler.
    small = Int8Tensor if kind == "int8" else Float8Tensor
    return nn.Parameter(small.from_hp(weight, granularity=PerRow()), requires_grad=False)


def _require_library(kind: FrozenWeights) -> None:
    library = LIBRARIES[kind]
    try:
        import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"frozen_weights={kind} needs a library that is not installed",
            found=str(error),
            expected=f"the package {library}",
            fix="Install it with `pip install 'latent2pixel[quant]'`, or choose frozen_weights=stored.",
        ) from error
