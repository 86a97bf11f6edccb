"""Seed diversity: how far apart the pictures of one prompt are.

Shape letters: S seeds of one prompt, D feature width, C channels, H height, W width.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from latent2pixel.errors import DataError

ImageDistance = Callable[[Tensor, Tensor], Tensor]
"""From two batches of images (B, 3, H, W) in [-1, 1] to a distance for each pair, (B,): LPIPS, as a training run takes
it from an exported file."""


def feature_diversity(features_SD: Tensor) -> float:
    """Return the mean Euclidean distance between the features of all pairs of one prompt's pictures.

    Raises:
        DataError: One picture or none.
    """
    _require_two(len(features_SD))
    return torch.pdist(features_SD.double()).mean().item()


def image_diversity(images_SCHW: Tensor, distance: ImageDistance) -> float:
    """Return the mean distance between all pairs of one prompt's pictures, such as LPIPS.

    Each pair is asked for in both directions: not every distance is symmetric, and the order of seeds has no meaning.

    Args:
        images_SCHW: Pictures in [-1, 1].
        distance: Of the images of two batches.

    Raises:
        DataError: One picture or none.
    """
    _require_two(len(images_SCHW))
    with torch.no_grad():
        totals = [
            distance(images_SCHW[one : one + 1], images_SCHW[other : other + 1]).item()
            for one, other in itertools.permutations(range(len(images_SCHW)), 2)
        ]
    return sum(totals) / len(totals)


def _require_two(number: int) -> None:
    if number < 2:
        raise DataError(
            "Seed diversity cannot be taken",
            found=f"{number} pictures of a prompt",
            expected="two or more, of different seeds",
            fix="Make images of each prompt with several seeds.",
        )
