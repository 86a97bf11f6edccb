"""Settings of one transfer training; the defaults are the paper's."""

import math
from dataclasses import dataclass
from typing import Literal

from latent2pixel.errors import ConfigError
from latent2pixel.flow import MIN_SIGMA

FrozenWeights = Literal["stored", "int8", "float8", "nf4"]
"""How frozen matrices are held: as they are stored, or in 8 bits (torchao) or 4 bits (bitsandbytes) a weight."""
OptimizerName = Literal["adamw", "adamw_8bit"]
"""torch's AdamW, or bitsandbytes' with 8 bits for each of its two states: 2 bytes a weight instead of 8."""
MAX_RELATIVE_STD = 12**-0.5
"""Relative spread of the plain mean of all steps, the widest average there is."""


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
    """Images a step, over all processes and micro-batches."""
    accumulation_steps: int = 1
    """Micro-batches into which each process cuts its share of a batch: less memory, the same gradient."""
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
    """Blocks that train at each end of the trunk; not read with a LoRA."""
    lora_rank: int = 0
    """Rank of a LoRA on every linear layer of all blocks, which then do not train themselves; what else the preset
    trains, trains as before. 0: none. Its rate is that of the new parts. Not of the paper."""
    lora_alpha: float | None = None
    """The LoRA's product counts alpha over rank times; none takes the rank, so that it counts once."""
    shift: float | None = None
    """Noise shift of the drawn noise levels; none means the shift of the model's own scheduler."""
    sigma_law: Literal["source", "logit_normal"] = "source"
    """How noise levels are drawn before the shift: as the source's family does (flows: uniform, as published), or by
    the sigmoid of a normal variable (Esser et al. 2024, equation 19; flows only)."""
    logit_mean: float = 0.0
    """Mean of the normal variable of sigma_law logit_normal; above 0 favours noise."""
    logit_std: float = 1.0
    """Its standard deviation."""
    min_snr_gamma: float | None = None
    """Bound of the signal-to-noise ratio in the weights of noise levels (Hang et al. 2023, who use 5); none weighs all
    alike, as published. Objective "images" only."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance; the paper names none."""
    fixed_noise: bool = False
    """Give every image one noise for all steps, as the released code does; else noise is drawn afresh."""
    ema_decay: float = 0.0
    """Decay of averaged weights, which are then the ones that are saved; 0 keeps no average."""
    ema_relative_std: float | None = None
    """Spread of the average over the run's steps, relative to its length (Karras et al. 2024, section 3.1), such as
    0.1: the decay then rises with the steps, up to ema_decay. None: the decay is reached within some steps."""
    precision: Literal["no", "bf16"] = "bf16"
    """Autocast of the forward pass; trainable weights and AdamW stay float32."""
    attention_backend: str | None = None
    """Attention kernel by diffusers' name; none leaves the choice to torch. On CPUs "_native_math" has the faster
    backward pass."""
    gradient_checkpointing: bool | None = False
    """Recompute activations in the backward pass: less memory, about a third more time. None: where diffusers can for
    this transformer; run.yaml shows the choice."""
    head_tile_px: int | None = None
    """Height and width of the tiles in which the head runs, each computed again in the backward pass: the activations
    of one tile instead of the images', the same gradient. None: the images at once. For 2048 px and more."""
    frozen_weights: FrozenWeights = "stored"
    """How frozen matrices are held in memory: int8 halves them and changes gradients by less than bfloat16 does; nf4 is
    a last resort. What is saved stays as it was."""
    optimizer: OptimizerName = "adamw"
    """AdamW with states in float32, as published, or in 8 bits."""
    block_offload: bool = False
    """Keep frozen blocks in the host's memory while they do not run; slower, never run on a GPU."""
    shard_frozen: bool = False
    """Keep one share of the frozen blocks on each process (FSDP2), for trunks that do not fit one card; slower."""
    compile: bool = False
    """Compile each block and the head (torch.compile): the first step takes minutes, the others are faster."""
    aspect_buckets: bool = False
    """Crop images to the nearest of several aspects from 1:2 to 2:1, of about image_size_px**2 pixels; else they must
    be squares of that size. Larger ones are scaled down, smaller ones skipped."""
    horizontal_flip: bool = False
    """Mirror half of the images, whatever is on them: a model of mirrored text cannot write."""
    max_bad_images: float = 0.01
    """Share of images that may turn out damaged and be replaced by others before the run ends."""
    num_workers: int = 4
    """Processes that decode images ahead of the training; 0: the training itself. Small sets stay in memory with 0
    only. The result does not depend on it."""
    seed: int = 0
    """Seed of data order, noise, noise levels and dropout."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, beside the one with the least validation error."""
    milestone_every: int = 0
    """Checkpoints of multiples of this step stay for good; 0: none."""
    divergence_factor: float = 10.0
    """A run ends where the mean loss of its last 50 steps is this many times the least that 50 steps had; 0: never. A
    loss or gradient that is no number always ends it."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where losses, validation and pictures are logged, of those that accelerate knows: tensorboard, trackio, wandb."""
    validate_every: int = 500
    """Steps between two validation grids; 0 makes none."""
    validation_images: int = 8
    """Pictures in a validation grid, of held-out prompts and then of the first ones of the data."""
    heldout_prompts: int = 0
    """Prompts, spread over the data, whose images do not train. The error on them is measured with every validation
    grid, and the checkpoint with the least one stays."""
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
            "accumulation_steps",
            "image_size_px",
            "checkpoint_every",
            "keep_checkpoints",
            "learning_rate",
            "trunk_rate_factor",
            "min_snr_gamma",
            "logit_std",
            "lora_alpha",
            "head_tile_px",
        )
        for key in positive:
            if getattr(self, key) is not None and getattr(self, key) <= 0:
                raise _out_of_range(key, getattr(self, key), "a number above 0")
        for key in (
            "steps",
            "milestone_every",
            "divergence_factor",
            "heldout_prompts",
            "num_workers",
            "max_bad_images",
            "lora_rank",
        ):
            if getattr(self, key) < 0:
                raise _out_of_range(key, getattr(self, key), "0 or more")
        if self.ema_relative_std is not None and not 0 < self.ema_relative_std < MAX_RELATIVE_STD:
            raise _out_of_range("ema_relative_std", self.ema_relative_std, f"above 0, below {MAX_RELATIVE_STD:.3f}")
        for key in ("caption_dropout", "ema_decay"):
            if not 0 <= getattr(self, key) < 1:
                raise _out_of_range(key, getattr(self, key), "a share from 0 up to, but not including, 1")
        if self.warmup_steps + self.cooldown_steps > self.steps:
            total = self.warmup_steps + self.cooldown_steps
            raise _out_of_range("warmup_steps + cooldown_steps", total, f"at most steps = {self.steps}")
        self._check_pairs()
        self._check_lora()
        self._check_perceptual()

    def _check_pairs(self) -> None:
        if self.block_offload and self.compile:
            raise ConfigError(
                "Blocks in host memory cannot be compiled",
                found="block_offload = true, compile = true",
                expected="one of them",
                fix="Leave one of them out.",
            )
        if self.shard_frozen and (self.block_offload or self.compile or self.frozen_weights != "stored"):
            raise ConfigError(
                "Blocks in shards are as they are stored, on the device, and not compiled",
                found=f"shard_frozen = true, frozen_weights = {self.frozen_weights}, "
                f"block_offload = {self.block_offload}, compile = {self.compile}",
                expected="shard_frozen alone: torch cannot shard quantised weights",
                fix="Leave shard_frozen out, with int8 every process holds the whole trunk; or leave out the others.",
            )
        if self.min_snr_gamma is not None and self.objective == "source":
            raise ConfigError(
                "The weights of noise levels belong to the objective 'images'",
                found=f"objective = source, min_snr_gamma = {self.min_snr_gamma}",
                expected="objective = images, or no min_snr_gamma",
                fix="Choose objective=images, or leave min_snr_gamma out.",
            )

    def _check_lora(self) -> None:
        if not self.lora_rank:
            if self.lora_alpha is not None:
                raise ConfigError(
                    "There is no LoRA whose product could be scaled",
                    found=f"lora_alpha = {self.lora_alpha}, lora_rank = 0",
                    expected="both, or neither",
                    fix="Set lora_rank, or leave lora_alpha out.",
                )
            return
        if self.freezing == "output":
            raise ConfigError(
                "A LoRA is on all blocks, and freezing = output lets no gradient through them",
                found=f"lora_rank = {self.lora_rank}, freezing = output",
                expected="freezing = paper or released",
                fix="Choose freezing=paper, or leave lora_rank out.",
            )
        if self.block_offload or self.shard_frozen or self.compile:
            raise ConfigError(
                "Blocks with a LoRA are whole, on the device, and not compiled",
                found=f"lora_rank = {self.lora_rank}, block_offload = {self.block_offload}, "
                f"shard_frozen = {self.shard_frozen}, compile = {self.compile}",
                expected="none of the three",
                fix="Leave them out; frozen_weights=int8 makes blocks with a LoRA small.",
            )

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
