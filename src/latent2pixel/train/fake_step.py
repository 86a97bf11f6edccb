"""One training step on tensors without data: what it keeps, and what it needs at most.

Shape letters: B batch, C channels, H height, W width.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from latent2pixel.model.predict import unwrapped
from latent2pixel.train.live_bytes import OTHER, KnownPlaces, LiveBytes
from latent2pixel.train.step import Draw, Teacher, distillation_loss, transfer_loss

GRADIENTS, STATE, HELD = "gradients", "optimiser state", "held"
"""Kinds of what is alive beside what operations make; held is what is there before and after the step."""
FLOAT32_ON_CUDA = frozenset({
    "layer_norm", "rms_norm", "group_norm", "norm", "vector_norm", "pow", "__pow__", "rsqrt", "reciprocal", "exp",
    "log", "softplus", "softmax", "log_softmax", "logsumexp", "sum", "prod", "cumsum", "mse_loss", "smooth_l1_loss",
    "cosine_similarity", "interpolate",
})  # fmt: skip
"""Names of functions that autocast runs in float32 on CUDA; on CPUs it leaves most of them in bfloat16.

Source:
    torch 2.13, ``ATen/autocast_mode.h``: AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE, as far as networks use
    them.
"""
PROMOTED_ON_CUDA = frozenset(("addcdiv", "addcmul", "index_put", "scatter_add", "tensordot"))
"""Names of functions that autocast on CUDA runs in the widest dtype of their arguments: AT_FORALL_PROMOTE there."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The fullest moment of a phase, in bytes beside weights, teacher, average and optimiser state."""

    gradients: int
    other: int
    """Activations, batch and temporary tensors."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.gradients + self.other


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """What a step on one micro-batch needs."""

    forward: Phase
    backward: Phase
    stored: int
    """Bytes that the forward pass leaves for the backward pass, the batch among them."""


class CudaAutocast(TorchFunctionMode):
    """Lets autocast on the CPU choose float32 where it does on CUDA.

    A CPU build of torch cannot pretend: autograd on a fake CUDA tensor ends the process (torch 2.13).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function in the dtype that CUDA would."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if torch.is_autocast_enabled("cpu") and name in FLOAT32_ON_CUDA | PROMOTED_ON_CUDA:
            dtypes = {value.dtype for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
            if name in FLOAT32_ON_CUDA or torch.float32 in dtypes:
                args = [_widened(value) for value in args]
                kwargs = {key: _widened(value) for key, value in kwargs.items()}
        return func(*args, **kwargs)


def checkpoint_like_cuda(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Checkpoint a function so that its recomputation chooses dtypes as on CUDA too.

    A function mode is off within the functions that it sees, ``Tensor.backward`` among them.
    """
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=_like_cuda_again, **named)


def _like_cuda_again() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """Return the contexts of a checkpointed forward pass and of its recomputation."""
    return contextlib.nullcontext(), CudaAutocast()


def run_step(
    model: nn.Module,
    images_BCHW: Tensor,
    drawn: Draw,
    conditioning: Mapping[str, Any],
    *,
    teacher: Teacher | None = None,
    beside: Sequence[nn.Module] = (),
    precision: str = "bf16",
    accumulates: bool = False,
    like_cuda: bool = False,
) -> StepBytes:
    """Run forward and backward pass of a micro-batch and return what they need.

    The gradients stay on the parameters.

    Args:
        model: Pixel transformer, frozen and cast as the trainer does it.
        images_BCHW: Batch in [-1, 1].
        drawn: Noise and noise levels.
        conditioning: The trunk's conditioning arguments, from ``Family.collate``.
        teacher: The source, for the objective "source"; None trains towards the images.
        beside: Networks that the teacher's latents need.
        precision: "bf16" or "no", as in ``TrainConfig``.
        accumulates: Measure a second micro-batch, which finds the gradients of the first.
        like_cuda: Autocast as on CUDA.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = [unwrapped(model), *([] if teacher is None else [teacher.model]), *beside]
    with _counting(held) as live, CudaAutocast() if like_cuda else contextlib.nullcontext():
        live.count(_tensors_of([images_BCHW, drawn.noise_BCHW, *conditioning.values()]), OTHER)
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda own: live.count([own.grad], GRADIENTS))
            for parameter in trained
        ]
        for _ in range(2 if accumulates else 1):
            live.restart()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                if teacher is None:
                    loss = transfer_loss(model, images_BCHW, drawn, conditioning)
                else:
                    loss = distillation_loss(model, images_BCHW, drawn, conditioning, teacher=teacher)
            stored, forward = live.now[OTHER], _phase(live.at_peak)
            live.restart()
            loss.backward()
            del loss
            backward = _phase(live.at_peak)
        for hook in hooks:
            hook.remove()
    return StepBytes(forward=forward, backward=backward, stored=stored)


def run_optimizer(
    model: nn.Module, optimizer_of: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer], *, max_norm: float
) -> tuple[int, Phase]:
    """Clip the gradients that ``run_step`` left and step; return the bytes of the state, and what the step needs.

    Args:
        model: The model of ``run_step``.
        optimizer_of: From parameters to their optimiser.
        max_norm: Longest gradient.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(trained)
    with _counting([model]) as live:
        live.count([parameter.grad for parameter in trained if parameter.grad is not None], GRADIENTS)
        live.restart()
        torch.nn.utils.clip_grad_norm_(trained, max_norm)
        optimizer.step()
        # State appears in the first step and stays: what of the peak is state is known only now.
        state = sum(value.untyped_storage().nbytes() for value in _tensors_of(optimizer.state.values()))
        peak = live.at_peak
    optimizer.zero_grad()
    return state, Phase(gradients=peak[GRADIENTS], other=max(0, peak[OTHER] - state))


@contextlib.contextmanager
def _counting(held: Sequence[nn.Module]) -> Iterator[LiveBytes]:
    """Count what is alive, with the weights counted as held."""
    with KnownPlaces(), LiveBytes() as live:
        for module in held:
            live.count([*module.parameters(), *module.buffers()], HELD)
        yield live


def _phase(peak: Counter[str]) -> Phase:
    return Phase(gradients=peak[GRADIENTS], other=peak[OTHER])


def _tensors_of(values: Any) -> Iterator[Tensor]:
    """Return all tensors in nested lists and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors_of(list(values.values()))
    elif not isinstance(values, str) and hasattr(values, "__iter__"):
        for value in values:
            yield from _tensors_of(value)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value
