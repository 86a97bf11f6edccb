"""How much memory of a card a training takes, by part, before any weight is loaded.

One step runs on tensors without data; from two batch sizes follow all others, as what a step needs is affine in them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from diffusers.training_utils import cast_training_params
from torch import nn

from latent2pixel.families import family_of
from latent2pixel.families.base import Encoded
from latent2pixel.model import freezing
from latent2pixel.train.config import FrozenWeights, OptimizerName, TrainConfig
from latent2pixel.train.fake_step import Phase, StepBytes, checkpoint_like_cuda, run_optimizer, run_step
from latent2pixel.train.for_model import trained_names
from latent2pixel.train.frozen_weights import shrinkable
from latent2pixel.train.live_bytes import drop_data, fake_tensor
from latent2pixel.train.lora import add_lora, lora_layers
from latent2pixel.train.step import Draw, Latents, Teacher

CARDS_GB = (16, 24, 32, 48, 80, 141)
"""Sizes of cards that are sold."""
RESERVED_BYTES = 3 * 2**29
"""1.5 GiB of a card that tensors cannot have: the driver's context, libraries' workspaces, gaps between tensors. A
judgement, not measured: no GPU was at hand."""
MEASURED = (1, 4)
"""Images of the two steps that run. The fullest moment can be another one in a larger batch: the nearer the second is
to the batches that are used, the better."""
QUANTISED: dict[str, tuple[float, int, int]] = {
    "int8": (1, 5, 0),
    "float8": (1, 4, 0),
    "nf4": (0.515869140625, 0, 1092),
}
"""Bytes for each weight, each row and each matrix. int8: scale in float32 and zero point; float8: scale. nf4: half a
byte, a scale in 8 bits for 64 weights, one in 32 for 256 of those; tables of both, 16 and 256 values, and an offset."""
STATE_8BIT = (2 + 2 * 4 / 256, 4096)
"""Bytes for each weight of both means in 8 bits with a float32 scale for 256 of them; smaller tensors than the second
number keep float32, as in torchao and bitsandbytes."""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Bytes that a process holds throughout, whatever its batch."""

    frozen_weights: int
    """Of the pixel model, as they are held on the card."""
    trained_weights: int
    """Float32 masters; autocast's copies count as activations."""
    optimizer_state: int
    average: int
    """Of the trained weights."""
    teacher: int
    """Objective "source": the trained parts as they were, and the source's VAE."""
    exchange: int
    """Copies of the gradients that processes exchange."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Memory of one process at its fullest moment, in bytes; the parts add up to the peak."""

    images: int
    """Of one micro-batch of this process."""
    phase: str
    """When that is: forward, backward or optimiser."""
    frozen_weights: int
    trained_weights: int
    optimizer_state: int
    average: int
    teacher: int
    exchange: int
    gradients: int
    """As many as there are at that moment."""
    activations: int
    """Stored for the backward pass, bfloat16 copies of weights and the batch among them."""
    transient: int
    """Everything else."""

    @property
    def peak(self) -> int:
        """All of them."""
        return sum(value for value in vars(self).values() if not isinstance(value, str)) - self.images


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory of one process for any batch."""

    fixed: Fixed
    steps: tuple[StepBytes, StepBytes]
    """With ``MEASURED`` images."""
    optimizer: Phase

    def at(self, images: int) -> Parts:
        """Return the parts for a micro-batch of so many images, at least one."""
        small, large = self.steps
        stored = _line(small.stored, large.stored, images)
        phases = {
            name: Phase(
                gradients=_line(before.gradients, after.gradients, images),
                other=_line(before.other, after.other, images),
            )
            for name, before, after in (
                ("forward", small.forward, large.forward),
                ("backward", small.backward, large.backward),
            )
        } | {"optimiser": self.optimizer}
        name = max(phases, key=lambda each: phases[each].total)
        activations = 0 if name == "optimiser" else min(stored, phases[name].other)
        return Parts(
            images=images,
            phase=name,
            **vars(self.fixed),
            gradients=phases[name].gradients,
            activations=activations,
            transient=phases[name].other - activations,
        )

    def largest_batch(self, card_gb: float) -> int:
        """Return the most images of a micro-batch that fit a card of so many GiB, 0 if not even one does."""
        room, most = card_gb * 2**30 - RESERVED_BYTES, 0
        while most < LARGEST_BATCH and self.at(most + 1).peak <= room:
            most += 1
        return most


LARGEST_BATCH = 4096
"""Where the search for the largest batch ends: far more images than one process trains on at a time."""


@dataclass(frozen=True, kw_only=True)
class MeasuredTraining:
    """What the steps of a training have shown, for every way to hold its weights."""

    frozen_bytes: dict[tuple[FrozenWeights, bool], int]
    """By kind of frozen weights, and by whether frozen blocks stay in the host's memory."""
    dequantised: int
    """What a small matrix takes while it is made full size for its product and scaled: two copies of the largest."""
    trained_sizes: list[int]
    """Weights of each parameter that trains."""
    teacher: int
    averages: bool
    """Whether the run keeps an average."""
    steps: tuple[StepBytes, StepBytes]
    """With ``MEASURED`` images."""
    optimizer_state: int
    """Of AdamW in float32."""
    optimizing: Phase

    def estimate(
        self,
        *,
        frozen_weights: FrozenWeights = "stored",
        optimizer: OptimizerName = "adamw",
        block_offload: bool = False,
        num_processes: int = 1,
    ) -> MemoryEstimate:
        """Return what one process needs.

        Args:
            frozen_weights: How frozen matrices are held.
            optimizer: Which optimiser.
            block_offload: Frozen blocks stay in the host's memory, but the one that runs and the next.
            num_processes: Each holds all weights.
        """
        largest, trained_bytes = 4 * max(self.trained_sizes), 4 * sum(self.trained_sizes)
        # The average moves by a share of a difference: two tensors of a parameter's size.
        at_once = 2 * largest if self.averages else 0
        state = self.optimizer_state
        if optimizer == "adamw_8bit":
            per_weight, least = STATE_8BIT
            state = round(sum(size * (per_weight if size >= least else 8) for size in self.trained_sizes))
            # Both means of a parameter are made float32 while it moves.
            at_once = 2 * largest
        dequantised = 0 if frozen_weights == "stored" else self.dequantised
        small, large = (_with_more(step, dequantised) for step in self.steps)
        return MemoryEstimate(
            fixed=Fixed(
                frozen_weights=self.frozen_bytes[frozen_weights, block_offload],
                trained_weights=trained_bytes,
                optimizer_state=state,
                average=trained_bytes if self.averages else 0,
                teacher=self.teacher,
                exchange=trained_bytes if num_processes > 1 else 0,
            ),
            steps=(small, large),
            optimizer=replace(self.optimizing, other=max(self.optimizing.other, at_once)),
        )


def measure_training(
    model: Any,
    told: Encoded,
    *,
    config: TrainConfig,
    checkpointed: bool,
    dtype: torch.dtype,
    mode: Any,
    latents: Latents | None = None,
    beside: Sequence[nn.Module] = (),
    like_cuda: bool = True,
) -> MeasuredTraining:
    """Run two steps of a training on tensors without data.

    Not counted: a perceptual distance's network, compiled kernels, validation pictures.

    Args:
        model: Pixel transformer on the meta device; it is used up.
        told: An encoded prompt, joined with what the model is told of an image; every image of a batch gets it.
        config: The run's settings; its batch and its checkpointing are not read.
        checkpointed: Whether activations are recomputed, which diffusers must be able to do for this transformer.
        dtype: Of the stored weights.
        mode: A ``FakeTensorMode`` that lets in tensors with data, the one of ``latents``.
        latents: Needed by the objective "source" only: from images without data to latent tokens.
        beside: Networks that ``latents`` needs on the card.
        like_cuda: Choose dtypes as autocast does on a GPU; else as on a CPU.

    Raises:
        ConfigError: Objective, freezing preset and model do not fit together.
    """
    freezing.freeze_all_but(model, trained_names(model, config))
    teacher = _prepare(model, config, dtype=dtype, mode=mode, latents=latents)
    model.head.tile_px = config.head_tile_px
    small = [name for name, _ in shrinkable(model)]
    if checkpointed:
        model.enable_gradient_checkpointing(checkpoint_like_cuda if like_cuda else None)
    few, many = (
        _step(
            model, told, images=images, config=config, mode=mode, teacher=teacher, beside=beside, like_cuda=like_cuda
        )
        for images in MEASURED
    )  # fmt: skip
    state, optimizing = run_optimizer(model, _adamw, max_norm=config.max_gradient_norm)
    return MeasuredTraining(
        frozen_bytes={
            (kind, offload): _frozen_bytes(model, kind=kind, small=small, block_offload=offload)
            for kind in get_args(FrozenWeights)
            for offload in (False, True)
        },
        dequantised=2 * max((model.get_submodule(name).weight.nbytes for name in small), default=0),
        trained_sizes=[parameter.numel() for parameter in _trained(model)],
        teacher=0 if teacher is None else _teacher_bytes(teacher, model, beside),
        averages=bool(config.ema_decay),
        steps=(few, many),
        optimizer_state=state,
        optimizing=optimizing,
    )


def _prepare(
    model: Any, config: TrainConfig, *, dtype: torch.dtype, mode: Any, latents: Latents | None
) -> Teacher | None:
    """Bring a model without data to where the trainer's first step finds it, and return its teacher, if it has one."""
    teacher: Teacher | None = None
    if config.objective == "source":
        if latents is None:
            raise TypeError("the objective 'source' needs the function latents")
        teacher = Teacher(model=freezing.frozen_copy(model), latents=latents)
    if config.lora_rank:
        layers = list(lora_layers(model))
        added = add_lora(model, layers, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        freezing.freeze_all_but(model, [*trained_names(model, config), *added])
    drop_data(model, *([] if teacher is None else [teacher.model]), dtype=dtype, mode=mode)
    cast_training_params(model)
    if config.attention_backend is not None:
        model.set_attention_backend(config.attention_backend)
    model.train()
    return teacher


def _teacher_bytes(teacher: Teacher, model: Any, beside: Sequence[nn.Module]) -> int:
    """Return the bytes that a teacher adds: the trained parts as they were, and what makes latents."""
    shared = {id(parameter) for parameter in model.parameters()}
    own = [parameter for parameter in teacher.model.parameters() if id(parameter) not in shared]
    return _bytes(own) + sum(_bytes(module.parameters()) for module in beside)


def _step(
    model: Any,
    told: Encoded,
    *,
    images: int,
    config: TrainConfig,
    mode: Any,
    teacher: Teacher | None,
    beside: Sequence[nn.Module],
    like_cuda: bool,
) -> StepBytes:
    """Run a step of so many images, which all carry the same prompt."""
    shape = (images, 3, config.image_size_px, config.image_size_px)
    images_BCHW, noise_BCHW = (fake_tensor(shape, torch.float32, mode=mode) for _ in range(2))
    # Any level will do: shapes do not hang on it.
    drawn = Draw(
        noise_BCHW=noise_BCHW, sigma_B=torch.full((images,), 0.5), dropped_B=torch.zeros(images, dtype=torch.bool)
    )
    conditioning = family_of(model).collate(model, [told] * images, model.grid_of(images_BCHW))
    for parameter in model.parameters():
        parameter.grad = None
    return run_step(
        model, images_BCHW, drawn, conditioning, teacher=teacher, beside=beside, precision=config.precision,
        accumulates=config.accumulation_steps > 1, like_cuda=like_cuda,
    )  # fmt: skip


def _with_more(step: StepBytes, size: int) -> StepBytes:
    """Return a step whose passes need so many bytes more."""
    forward, backward = (replace(phase, other=phase.other + size) for phase in (step.forward, step.backward))
    return replace(step, forward=forward, backward=backward)


def _adamw(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True)


def _frozen_bytes(model: Any, *, kind: FrozenWeights, small: Sequence[str], block_offload: bool) -> int:
    """Return the bytes of a model's frozen parameters and buffers that are on the card."""
    held = {name: tensor.nbytes for name, tensor in model.named_parameters() if not tensor.requires_grad}
    if kind != "stored":
        held |= {f"{name}.weight": _quantised_bytes(model.get_submodule(name).weight, kind) for name in small}
    total = sum(held.values()) + _bytes(model.buffers())
    if not block_offload:
        return total
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    blocks = []
    for prefix in _blocks(model):
        if not any(name.startswith(prefix) for name in trained):
            blocks.append(sum(size for name, size in held.items() if name.startswith(prefix)))
    return total - sum(blocks) + sum(sorted(blocks)[-2:])


def _blocks(model: Any) -> Iterator[str]:
    """Return the prefix of the parameters of each block."""
    for name in model.trunk.image_blocks:
        yield from (f"{name}.{index}." for index in range(len(model.get_submodule(name))))


def _quantised_bytes(weight: Any, kind: FrozenWeights) -> int:
    per_weight, per_row, per_matrix = QUANTISED[kind]
    return round(weight.numel() * per_weight + weight.shape[0] * per_row + per_matrix)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _line(small: int, large: int, images: int) -> int:
    """Return the value at a batch size of the line through those of the two that were measured."""
    first, second = MEASURED
    return max(0, round(small + (large - small) * (images - first) / (second - first)))
