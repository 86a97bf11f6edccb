"""What a recipe decides: the conversion and the training that follows it."""

from dataclasses import dataclass

from latent2pixel.convert.config import ConversionConfig
from latent2pixel.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run, from the source to the trained pixel model."""

    conversion: ConversionConfig
    """How the source becomes an untrained pixel model."""
    training: TrainConfig
    """How the pixel model is trained."""
