"""Settings of a conversion."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from latent2pixel.errors import ConfigError
from latent2pixel.model.codec import require_noise_scale
from latent2pixel.model.freezing import PRESETS
from latent2pixel.model.head import FEATURE_NORMS, head_channels

Initialisation = Literal["random", "lift"]
INITIALISATIONS: tuple[str, ...] = get_args(Initialisation)
InputMap = Literal["procrustes", "ridge", "random", "small_random"]
INPUT_MAPS: tuple[str, ...] = get_args(InputMap)


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """What decides a conversion, next to its source; the defaults are the paper's at 1024 px."""

    patch_size: int = 16
    """Pixels per token and axis; 16 keeps the token count of an 8x VAE with latent patch 2, which most sources have."""
    head: str | tuple[int, ...] = "1k"
    """Detailer head: a name of ``HEAD_CHANNELS``, or the channels of each level."""
    head_feature_norm: str = "none"
    """``"layer_norm"`` scales every token before the head; ``"none"`` feeds raw hidden states, as published."""
    freezing: str = "paper"
    """Which parameters train afterwards: a preset of ``model.freezing``."""
    num_blocks: int = 5
    """Blocks at each end of the trunk that train."""
    initialisation: Initialisation = "random"
    """How the new parts start: at random, as published, or in closed form from source images (``model.lift``)."""
    input_map: InputMap = "procrustes"
    """Lift: how the map from pixels to latents is found, see ``initialise.LiftStatistics.fit``; all but the default are
    for comparison."""
    wiener: bool = False
    """Lift: filter what the linear decode leaves; for a head that stays untrained."""
    warm_up_steps: int = 1000
    """Lift: steps in which stem and head learn to encode and decode, without the trunk."""
    noise_scale: float = 1.0
    """How many times stronger the noise is beside the image, see ``PixelVAE``; not with the lift, whose scale it is."""
    noise_shift: float | None = None
    """Noise shift of the pixel model's scheduler, with which it samples and trains; of 4096 tokens, where it grows with
    them. 4 is published for patch 64. None keeps the source's; not with the lift, which derives it."""
    seed: int = 0
    """Seed of the new parts' random weights and of the warm-up."""

    def __post_init__(self) -> None:
        head_channels(self.head)
        require_noise_scale(self.noise_scale)
        if self.noise_scale != 1 and self.initialisation == "lift":
            raise ConfigError(
                "A lifted model has the noise scale that its fit finds",
                found=f"noise_scale={self.noise_scale}",
                expected="noise_scale=1 with the recipe lift",
                fix="Leave --noise-scale out, or choose the recipe paper or released.",
            )
        if self.noise_shift is not None and not 0 < self.noise_shift < math.inf:
            raise ConfigError(
                "A conversion setting is out of range",
                found=f"noise_shift={self.noise_shift}",
                expected="a number above 0; 4 as published for patch 64",
                fix="Correct --noise-shift, or leave it out.",
            )
        if self.noise_shift is not None and self.initialisation == "lift":
            raise ConfigError(
                "A lifted model has the noise shift that its fit finds",
                found=f"noise_shift={self.noise_shift:g}",
                expected="no noise shift with the recipe lift",
                fix="Leave --noise-shift out, or choose the recipe paper or released.",
            )
        if self.warm_up_steps < 0:
            raise ConfigError(
                "A conversion setting is out of range",
                found=f"warm_up_steps={self.warm_up_steps}",
                expected="0 or more",
                fix="Choose a number of steps, or 0 for a silent head.",
            )
        allowed = {
            "head_feature_norm": FEATURE_NORMS,
            "freezing": PRESETS,
            "initialisation": INITIALISATIONS,
            "input_map": INPUT_MAPS,
        }
        for key, names in allowed.items():
            if getattr(self, key) not in names:
                raise ConfigError(
                    "A conversion setting does not exist",
                    found=f"{key}={getattr(self, key)!r}",
                    expected=f"{key} in {names}",
                    fix="Choose one of the listed names.",
                )
