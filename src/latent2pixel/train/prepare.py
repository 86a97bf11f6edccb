"""From a loaded pixel model to one that trains: frozen, made small, recomputed, its trained weights in float32."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import cast_training_params

from latent2pixel.errors import ConfigError
from latent2pixel.model import freezing
from latent2pixel.model.compute import compile_parts, lay_out_head
from latent2pixel.train.block_offload import offload_frozen_blocks
from latent2pixel.train.config import TrainConfig
from latent2pixel.train.for_model import is_checkpointed, rate_factor_of, trained_names, trained_share
from latent2pixel.train.frozen_shards import shard_frozen_blocks
from latent2pixel.train.frozen_weights import shrink_frozen
from latent2pixel.train.lora import add_lora, lora_layers
from latent2pixel.train.step import Latents, Teacher


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known of a model before its weights change."""

    share: freezing.TrainableShare
    rate_factor: float
    """Share of the learning rate for the source's own weights."""
    dtype: torch.dtype
    """Of the weights as they were loaded."""
    trained_dtypes: dict[str, torch.dtype]
    """The same for each parameter that trains; some models keep a few in float32."""
    teacher: Teacher | None
    """Of the objective "source": the model as it was converted."""


def prepare_model(model: Any, config: TrainConfig, *, device: torch.device, latents: Latents | None) -> Prepared:
    """Make a pixel transformer ready for a run, in place; it is not to be moved any more if its blocks are offloaded.

    Args:
        model: As it was loaded.
        config: Settings of the run.
        device: Where it trains.
        latents: Needed by the objective "source" only.

    Raises:
        ConfigError: Settings that the model, or an installed library, does not allow.
    """
    names = trained_names(model, config)
    freezing.freeze_all_but(model, names)
    # All of this before the weights are made small, which changes their numbers and dtypes.
    share, rate_factor, dtype = trained_share(model, config), rate_factor_of(model, config), model.dtype
    layers = list(lora_layers(model)) if config.lora_rank else []
    _require_precision(dtype, config.precision)
    trained_dtypes = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
    shrink_frozen(model, config.frozen_weights)
    if config.attention_backend is not None:
        model.set_attention_backend(config.attention_backend)
    if is_checkpointed(model, config):
        model.enable_gradient_checkpointing()
    if config.block_offload:
        offload_frozen_blocks(model, device)
    teacher = _teacher(model, latents) if config.objective == "source" else None
    if layers:
        # Behind the teacher's making, which has none.
        added = add_lora(model, layers, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        freezing.freeze_all_but(model, [*names, *added])
        trained_dtypes |= dict.fromkeys(added, torch.float32)
    if config.shard_frozen:
        # Behind the teacher's making: the two no longer share weights, each process holds a share of both.
        for each in (model, *([] if teacher is None else [teacher.model])):
            shard_frozen_blocks(each, device)
    if teacher is not None and not config.block_offload:
        teacher.model.to(device)
    cast_training_params(model)
    lay_out_head(model)
    model.head.tile_px = config.head_tile_px
    if config.compile:
        compile_parts(model)
    return Prepared(share=share, rate_factor=rate_factor, dtype=dtype, trained_dtypes=trained_dtypes, teacher=teacher)


def _teacher(model: Any, latents: Latents | None) -> Teacher:
    if latents is None:
        raise TypeError("the objective 'source' needs the function latents")
    return Teacher(model=freezing.frozen_copy(model), latents=latents)


def _require_precision(dtype: torch.dtype, precision: str) -> None:
    if precision == "no" and dtype != torch.float32:
        raise ConfigError(
            "The model is stored in a lower precision than the run asks for",
            found=f"{str(dtype).removeprefix('torch.')} weights, precision 'no'",
            expected="precision 'bf16', or float32 weights",
            fix="Leave precision at bf16, or convert the source with --dtype float32.",
        )
