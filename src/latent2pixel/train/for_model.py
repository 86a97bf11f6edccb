"""Settings of a run whose meaning depends on the model: what trains, at which rate and noise, how it is computed."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from latent2pixel.errors import ConfigError
from latent2pixel.families.base import Family
from latent2pixel.flow import sample_logit_normal_sigmas
from latent2pixel.model import freezing
from latent2pixel.model.predict import unwrapped
from latent2pixel.model.trunk import is_under
from latent2pixel.train.config import TrainConfig
from latent2pixel.train.lora import is_lora, lora_layers


def trained_names(model: nn.Module, config: TrainConfig) -> tuple[str, ...]:
    """Return the names of the model's parameters that a run trains; a LoRA's are not among them.

    Raises:
        ConfigError: The objective needs a lift, which the model does not have; or a freezing preset is unknown.
    """
    to_tokens = config.objective == "source"
    if to_tokens and not unwrapped(model).config["lift_config"]:
        raise ConfigError(
            "The objective 'source' needs a model that sees latents in its pixels",
            found="a model without a lift",
            expected="a model converted with the recipe lift",
            fix="Convert the source with --recipe lift, or train with objective=images.",
        )
    num_blocks = 0 if config.lora_rank else config.num_blocks
    return freezing.trainable_names(model, preset=config.freezing, num_blocks=num_blocks, to_tokens=to_tokens)


def trained_share(model: nn.Module, config: TrainConfig) -> freezing.TrainableShare:
    """Count what trains in a run, and what its LoRA adds.

    Args:
        model: As it was loaded; on the meta device too.
        config: Settings of the run.

    Raises:
        ConfigError: As ``trained_names`` and ``lora_layers``.
    """
    share = freezing.describe(model, trained_names(model, config))
    if not config.lora_rank:
        return share
    layers = lora_layers(model).values()
    weights = sum(config.lora_rank * (layer.in_features + layer.out_features) for layer in layers)
    return freezing.TrainableShare(
        num_trainable=share.num_trainable + weights,
        num_total=share.num_total + weights,
        num_trainable_tensors=share.num_trainable_tensors + 2 * len(layers),
        num_tensors=share.num_tensors + 2 * len(layers),
    )


def is_checkpointed(model: Any, config: TrainConfig) -> bool:
    """Tell whether a run recomputes activations: as set, or wherever diffusers can.

    Raises:
        ConfigError: If it is set, and diffusers has it not for this transformer.
    """
    supported = bool(model._supports_gradient_checkpointing)
    if config.gradient_checkpointing and not supported:
        raise ConfigError(
            "This model's forward cannot be checkpointed",
            found=f"gradient_checkpointing=true with {type(model).__name__}",
            expected="gradient_checkpointing=false: diffusers has it not for this transformer",
            fix="Leave it out, and lower the batch or the image size if memory is short.",
        )
    return supported if config.gradient_checkpointing is None else config.gradient_checkpointing


def rate_factor_of(model: nn.Module, config: TrainConfig) -> float:
    """Return the source's own weights' share of the learning rate: as set, or from the weights themselves.

    AdamW moves every weight by about the rate. With the ratio of the root mean squares, old and new matrices move by
    the same share of their size.
    """
    if config.trunk_rate_factor is not None:
        return config.trunk_rate_factor
    trained, new_parts = set(trained_names(model, config)), unwrapped(model).trunk.new_parts
    sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for name, parameter in unwrapped(model).named_parameters():
        if name in trained and parameter.ndim > 1:
            is_new = is_under(name, new_parts)
            sums[is_new] += parameter.detach().float().square().sum().item()
            counts[is_new] += parameter.numel()
    if not counts[True] or not counts[False]:
        return 1.0
    new, kept = ((sums[key] / counts[key]) ** 0.5 for key in (True, False))
    return kept / new


def rate_groups(
    trainable: Mapping[str, nn.Parameter], *, new_parts: tuple[str, ...], factor: float
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: new parts and LoRAs, and the source's own weights with their share of the rate.

    Args:
        trainable: Parameters by name.
        new_parts: Names of the modules that a conversion adds.
        factor: The share.
    """
    is_new = {name: is_under(name, new_parts) or is_lora(name) for name in trainable}
    new = [parameter for name, parameter in trainable.items() if is_new[name]]
    kept = [parameter for name, parameter in trainable.items() if not is_new[name]]
    groups = [{"params": new, "rate_factor": 1.0}, {"params": kept, "rate_factor": factor}]
    return [group for group in groups if group["params"]]


def sigma_sampler(family: Family, scheduler: Any, config: TrainConfig) -> Callable[..., Tensor]:
    """Return the function from a number of images, ``num_tokens`` and ``generator`` to their noise levels.

    Args:
        family: Of the model.
        scheduler: Of its pipeline.
        config: Settings of the run.

    Raises:
        SourceError: The scheduler has no noise shift, or other noise levels than the source was trained at.
        ConfigError: The law of the noise levels is none of the source's.
    """
    if config.sigma_law == "source":
        draw = partial(family.sample_sigmas, scheduler=scheduler, shift=config.shift)
        draw(1, num_tokens=1)  # refused now, if at all
        return draw
    if family.objective != "flow":
        raise ConfigError(
            "Noise levels of this source are whole steps of its schedule",
            found=f"sigma_law={config.sigma_law}, a source that predicts {family.objective}",
            expected="sigma_law=source",
            fix="Leave sigma_law out.",
        )

    def draw_logit_normal(batch: int, *, num_tokens: int, generator: Any = None) -> Tensor:
        shift = family.shift(scheduler, num_tokens) if config.shift is None else config.shift
        mean, std = config.logit_mean, config.logit_std
        return sample_logit_normal_sigmas(batch, shift=shift, mean=mean, std=std, generator=generator)

    return draw_logit_normal
