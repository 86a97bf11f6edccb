"""Settings of one transfer training; the defaults are the paper's."""

import math
from dataclasses import dataclass
from typing import Literal

from latent2pixel.errors import ConfigError
from latent2pixel.flow import MIN_SIGMA


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that, next to the model and the images, decides a run.

    Source:
        L2P (arXiv 2605.12013), section 3.3 and table 3, where a field names no other.
    """

    steps: int = 20_000
    """Optimiser steps; a run started again goes on to this number. The paper names none: this shows its 20,000 images
    eight times. 0 leaves the model as it was converted."""
    batch_size: int = 8
    """Images a step, over all processes."""
    image_size_px: int = 1024
    """Width and height of the training images, a multiple of the patch size."""
    learning_rate: float = 5e-5
    """AdamW's rate after the warm-up."""
    objective: Literal["images", "source"] = "images"
    """Towards what the model trains: the images, as published; or, with a lift, the latents that the source itself
    predicts for them."""
    trunk_rate_factor: float | None = 1.0
    """Rate of the source's own weights (blocks, tail) over that of the new parts; none takes the ratio of their root
    mean squares, so that both change by the same share of themselves."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    adam_beta1: float = 0.9
    """Decay of the gradient's mean."""
    adam_beta2: float = 0.999
    """Decay of the gradient's square."""
    warmup_steps: int = 0
    """Steps over which the rate rises from zero; the paper names none."""
    cooldown_steps: int = 0
    """Last steps, over which the rate falls to zero; the paper names none."""
    max_gradient_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    freezing: Literal["paper", "released", "output"] = "paper"
    """Which parameters train, see ``model/freezing.py``."""
    num_blocks: int = 5
    """Blocks that train at each end of the trunk."""
    shift: float | None = None
    """Noise shift of the drawn noise levels; none means the shift of the model's own scheduler."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance; the paper names none."""
    fixed_noise: bool = False
    """Give every image one noise for all steps, as the released code does; else noise is drawn afresh."""
    ema_decay: float = 0.0
    """Decay of averaged weights, which are then the ones that are saved; 0 keeps no average."""
    precision: Literal["no", "bf16"] = "bf16"
    """Autocast of the forward pass; trainable weights and AdamW stay float32."""
    attention_backend: str | None = None
    """Attention kernel by diffusers' name; none leaves the choice to torch. On CPUs "_native_math" has the faster
    backward pass."""
    gradient_checkpointing: bool | None = False
    """Recompute activations in the backward pass: less memory, about a third more time. None: where diffusers can for
    this transformer; run.yaml shows the choice."""
    seed: int = 0
    """Seed of data order, noise, noise levels and dropout."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    validate_every: int = 500
    """Steps between two validation grids; 0 makes none."""
    validation_images: int = 8
    """Pictures in a validation grid, of the first prompts of the data."""
    validation_steps: int = 30
    """Euler steps of a validation picture."""
    validation_guidance: float = 2.0
    """The pipeline's guidance for validation pictures."""
    perceptual: Literal["none", "dino", "exported"] = "none"
    """Perceptual distance added to the objective "images": of a vision transformer's features, or of an exported
    network such as LPIPS, see ``train/perceptual.py``. Not of the paper."""
    perceptual_model: str | None = None
    """The network's folder ("dino") or file ("exported"); nothing is downloaded."""
    perceptual_weight: float = 0.1
    """Factor of the perceptual distance; never tuned, and every network has its own scale."""
    perceptual_max_sigma: float = 0.5
    """Images with more noise than this get no perceptual distance; never tuned."""

    def __post_init__(self) -> None:
        """Check ranges, and that settings fit together.

        Raises:
            ConfigError: A value is out of range or does not fit the others.
        """
        positive = (
            "batch_size",
            "image_size_px",
            "checkpoint_every",
            "keep_checkpoints",
            "learning_rate",
            "trunk_rate_factor",
        )
        for key in positive:
            if getattr(self, key) is not None and getattr(self, key) <= 0:
                raise _out_of_range(key, getattr(self, key), "a number above 0")
        if self.steps < 0:
            raise _out_of_range("steps", self.steps, "0 or more")
        for key in ("caption_dropout", "ema_decay"):
            if not 0 <= getattr(self, key) < 1:
                raise _out_of_range(key, getattr(self, key), "a share from 0 up to, but not including, 1")
        if self.warmup_steps + self.cooldown_steps > self.steps:
            total = self.warmup_steps + self.cooldown_steps
            raise _out_of_range("warmup_steps + cooldown_steps", total, f"at most steps = {self.steps}")
        self._check_perceptual()

    def _check_perceptual(self) -> None:
        if not 0 <= self.perceptual_weight < math.inf:
            raise _out_of_range("perceptual_weight", self.perceptual_weight, "0 or more")
        # Below MIN_SIGMA a lifted model's velocity is one of MIN_SIGMA: a gate down there would let none pass.
        if not MIN_SIGMA <= self.perceptual_max_sigma <= 1:
            raise _out_of_range("perceptual_max_sigma", self.perceptual_max_sigma, f"a sigma from {MIN_SIGMA} to 1")
        if (self.perceptual == "none") != (self.perceptual_model is None):
            raise ConfigError(
                "The settings perceptual and perceptual_model do not fit together",
                found=f"perceptual = {self.perceptual}, perceptual_model = {self.perceptual_model}",
                expected="both, or neither",
                fix="Set perceptual to dino or exported and perceptual_model to its folder or file, or leave both out.",
            )
        if self.perceptual != "none" and self.objective == "source":
            raise ConfigError(
                "The objective 'source' predicts latents, and a perceptual distance needs an image",
                found=f"objective = source, perceptual = {self.perceptual}",
                expected="objective = images, or perceptual = none",
                fix="Choose objective=images, or leave perceptual and perceptual_model out.",
            )


def _out_of_range(key: str, found: object, expected: str) -> ConfigError:
    return ConfigError(
        f"The training setting {key} is out of range",
        found=found,
        expected=expected,
        fix="Change it with --set KEY=VALUE or in the YAML file.",
    )
