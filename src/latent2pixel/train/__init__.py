"""Transfer training: the shallow ends and the head of a converted model learn from the source's own images."""

from latent2pixel.train.config import TrainConfig
from latent2pixel.train.trainer import TrainReport, train

__all__ = ["TrainConfig", "TrainReport", "train"]
