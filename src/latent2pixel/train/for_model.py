"""Settings of a run whose meaning depends on the model: what trains, at which rate, and whether it is recomputed."""

from typing import Any

from torch import nn

from latent2pixel.errors import ConfigError
from latent2pixel.model import freezing
from latent2pixel.model.predict import unwrapped
from latent2pixel.model.trunk import is_under
from latent2pixel.train.config import TrainConfig


def trained_names(model: nn.Module, config: TrainConfig) -> tuple[str, ...]:
    """Return the names of the parameters that a run trains.

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
    return freezing.trainable_names(model, preset=config.freezing, num_blocks=config.num_blocks, to_tokens=to_tokens)


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
