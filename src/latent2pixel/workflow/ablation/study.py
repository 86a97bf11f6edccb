"""What an ablation compares: arms, and the study that they make up."""

from dataclasses import dataclass, field
from typing import Any, Literal

from latent2pixel.errors import ConfigError

ImageSet = Literal["source", "renders", "other", "mix"]
"""Training images: drawn by the source; true pictures of the world; drawn by another source; the first two, 1:1."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of making a pixel model; what it does not name is its recipe's."""

    name: str
    """In tables and figures."""
    recipe: str = "paper"
    """Recipe that it starts from. Of recipe lift the conversion is measured, its warm-up as long as a look says."""
    images: ImageSet = "source"
    """What it trains on."""
    num_images: int | None = None
    """How many of them, drawn at random; none takes all."""
    shift: float | Literal["source", "derived"] | None = None
    """Noise shift of training and sampling: "source" is the source's; "derived" multiplies it by the lift's scale at
    this patch, which is where the recipe lift takes its shift from. None leaves the recipe's: derived with recipe lift,
    else the source's."""
    learning_rate_factor: float = 1.0
    """Factor of the recipe's rate: of the training, of recipe lift that of the warm-up."""
    conversion: dict[str, Any] = field(default_factory=dict)
    """Settings of the conversion that differ from the recipe's."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of the training that differ from the recipe's."""
    warm_up: dict[str, Any] = field(default_factory=dict)
    """Settings of the warm-up of recipe lift that differ from the recipe's, but for its steps."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Arms that differ in one thing."""

    name: str
    """Of its files."""
    question: str
    """What the study asks, as its table's title."""
    claim: str | None = None
    """What the paper says, if anything."""
    arms: tuple[Arm, ...]
    """The first one is what the others are compared with."""
    image_size_px: int = 64
    """Width and height of all pictures."""
    patch_size: int = 16
    """Pixels per token and axis."""
    head: tuple[int, ...] | None = None
    """Channels of the head's levels; none takes the miniature's."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or not names:
            raise ConfigError(
                f"The arms of the study {self.name} cannot be told apart",
                found=", ".join(names) or "no arm",
                expected="at least one arm, each with a name of its own",
                fix="Give every arm another name.",
            )


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """The budget that all arms have; the defaults are those of benchmarks/convergence.md."""

    steps: int = 1000
    """Training steps of each arm, or steps of the longest warm-up."""
    looks: tuple[int, ...] = (100, 300, 1000)
    """Steps after which an arm is measured, up to ``steps``; 0 is before the first."""
    num_prompts: int = 600
    """Training captions; equal ones count once."""
    seeds_per_prompt: int = 2
    """Images of each."""
    num_validation: int = 96
    """The source's images of held-out captions on which the error is measured."""
    num_captions: int = 120
    """Held-out captions behind a score, one picture each."""
    level: str = "easy"
    """Level of the miniature world."""
    num_steps: int = 16
    """Steps of the scheduler, of source and pixel models alike."""
    guidance_scale: float = 2.0
    """Guidance of both."""

    def __post_init__(self) -> None:
        if list(self.looks) != sorted(set(self.looks)) or not self.looks or self.looks[0] < 0 or self.looks[-1] < 1:
            raise ConfigError(
                "The looks of an ablation are no rising steps",
                found=f"looks={list(self.looks)}",
                expected="steps from 0 on, each more than the one before, the last above 0",
                fix="Write --set 'looks=[100, 300, 1000]'.",
            )
        if self.looks[-1] != self.steps:
            raise ConfigError(
                "The last look of an ablation is not at its last step",
                found=f"looks={list(self.looks)}, steps={self.steps}",
                expected=f"looks that end with {self.steps}",
                fix=f"Write --set 'looks=[..., {self.steps}]', or change steps.",
            )
