"""Settings of ``l2p demo``."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of a demo; the defaults fit fifteen minutes on two CPU cores."""

    source: str = "shipped"
    """Folder or id of the source pipeline; "shipped" is the miniature that comes with the package."""
    recipe: str = "lift"
    """Recipe of the transfer."""
    level: str = "easy"
    """Level of the miniature world whose captions are used."""
    num_prompts: int = 600
    """Training captions."""
    seeds_per_prompt: int = 2
    """Source images of each, as in the paper."""
    num_captions: int = 120
    """Held-out captions of the scores, two images each."""
    warm_up_steps: int = 1000
    """Steps in which the head of recipe lift learns without the trunk."""
    steps: int | None = None
    """Training steps; none means 1000 towards the images, 300 towards the source, as recipe lift does."""
    image_size_px: int | None = None
    """Size of all images; none means that of the recipe: 64 for the miniature, 1024 for another source."""
    guidance_scale: float = 2.0
    """Guidance of source and pixel model alike."""
    num_steps: int = 16
    """Euler steps of source and pixel model alike."""
    seed: int = 0
    """Seed of captions, images, conversion and training."""
