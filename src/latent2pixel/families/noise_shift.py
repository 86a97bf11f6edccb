"""The noise shift of a source's scheduler: one number, or one that grows with the image."""

import math
from typing import Any

from latent2pixel.errors import SourceError

BASE_TOKENS, MAX_TOKENS, BASE_MU, MAX_MU = 256, 4096, 0.5, 1.15
"""What diffusers' pipelines assume where a scheduler's config is silent: mu grows linearly with the tokens."""


def shift_of(scheduler: Any, num_tokens: int) -> float:
    """Return the noise shift k of a flow-matching scheduler for images of so many tokens.

    Args:
        scheduler: Of a pipeline.
        num_tokens: Tokens of one image.

    Raises:
        SourceError: If it has none: it is no flow-matching scheduler.

    Source:
        diffusers 0.42, ``calculate_shift`` of its pipelines and ``FlowMatchEulerDiscreteScheduler.time_shift``:
        mu is linear in the tokens, the shift ``exp(mu)``, or mu itself with time_shift_type "linear".
    """
    _require_flow(scheduler)
    config = scheduler.config
    if not config.get("use_dynamic_shifting", False):
        # Multistep schedulers keep theirs under another name.
        return float(config["flow_shift"]) if "flow_shift" in config else float(scheduler.shift)
    base, largest = config.get("base_image_seq_len", BASE_TOKENS), config.get("max_image_seq_len", MAX_TOKENS)
    base_mu, max_mu = config.get("base_shift", BASE_MU), config.get("max_shift", MAX_MU)
    mu = base_mu + (max_mu - base_mu) / (largest - base) * (num_tokens - base)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def scaled_shift(scheduler: Any, factor: float, *, token_factor: float = 1.0) -> Any:
    """Return a copy of a scheduler with its noise shift multiplied, at every image size.

    Args:
        scheduler: Of a pipeline.
        factor: On the shift.
        token_factor: Tokens of an image now over what they were, where the shift depends on their number.

    Raises:
        SourceError: If it has none.
    """
    _require_flow(scheduler)
    config, build = scheduler.config, type(scheduler).from_config
    if not config.get("use_dynamic_shifting", False):
        if "flow_shift" in config:
            return build(config, flow_shift=config["flow_shift"] * factor)
        return build(config, shift=float(scheduler.shift) * factor)
    base, largest = config.get("base_image_seq_len", BASE_TOKENS), config.get("max_image_seq_len", MAX_TOKENS)
    sizes = {"base_image_seq_len": base * token_factor, "max_image_seq_len": largest * token_factor}
    base_mu, max_mu = config.get("base_shift", BASE_MU), config.get("max_shift", MAX_MU)
    if config.get("time_shift_type") == "linear":
        return build(config, **sizes, base_shift=base_mu * factor, max_shift=max_mu * factor)
    return build(config, **sizes, base_shift=base_mu + math.log(factor), max_shift=max_mu + math.log(factor))


def _require_flow(scheduler: Any) -> None:
    config = scheduler.config
    if not (hasattr(scheduler, "shift") or config.get("use_flow_sigmas")):
        raise SourceError(
            "The source's scheduler has no noise shift",
            found=type(scheduler).__name__,
            expected="a flow-matching scheduler, such as FlowMatchEulerDiscreteScheduler",
            fix="Replace the pipeline's scheduler by one of them, or set the shift in the training config.",
        )
