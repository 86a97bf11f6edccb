"""Distances between two sets of features: Frechet (FID), polynomial kernel (KID, MMD); inception score; crops.

Shape letters: N images or crops, D feature width, K classes, C channels, H height, W width.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from latent2pixel.errors import ConfigError, DataError

SUBSET_SIZE = 1000
NUM_SUBSETS = 100
"""KID's customary subsets, torchmetrics' defaults too."""


class FrechetDistance:
    """Frechet distance between Gaussians fitted to two streams of features; memory does not grow with the images.

    The maths are those of torchmetrics' ``FrechetInceptionDistance`` in float64.

    Source:
        Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", equation 6.

    Args:
        width: Numbers in one feature.

    Raises:
        ConfigError: torchmetrics is not installed.
    """

    def __init__(self, width: int) -> None:
        fid = _torchmetrics("fid")
        # Features arrive where torchmetrics expects images, so that one pass of the network serves every metric.
        given = torch.nn.Identity()
        given.num_features = width  # type: ignore[assignment]
        self._metric = fid.FrechetInceptionDistance(feature=given)
        self.width = width

    def add(self, source_ND: Tensor, pixel_ND: Tensor) -> None:
        """Take features of the source's images and of the pixel model's; their numbers may differ."""
        self._metric.update(source_ND.double().cpu(), real=True)
        self._metric.update(pixel_ND.double().cpu(), real=False)

    def result(self) -> dict[str, Any]:
        """Return distance, number of features of each side, and whether they suffice for covariances of full rank.

        With few features the distance is too large, in a way that depends on both sets: compare distances for equal
        numbers of images only.

        Raises:
            DataError: Fewer than two features on a side.
        """
        numbers = [int(self._metric.real_features_num_samples), int(self._metric.fake_features_num_samples)]
        if min(numbers) < 2:
            raise _too_few(min(numbers), least=2)
        # Rounding makes the distance of equal sets a number such as -1e-14.
        distance = max(0.0, self._metric.compute().item())
        return {
            "distance": distance,
            "num_source": numbers[0],
            "num_pixel": numbers[1],
            "feature_width": self.width,
            "full_rank": min(numbers) > self.width,
        }


def polynomial_mmd(
    source_ND: Tensor, pixel_ND: Tensor, *, generator: torch.Generator, subset_size: int | None = None
) -> dict[str, Any]:
    """Return the squared maximum mean discrepancy with the kernel ``(x . y / D + 1) ** 3``, unbiased: KID.

    Unlike the Frechet distance it is right on average for any number of images, and may be a little below 0.

    Args:
        source_ND: Features of the source's images.
        pixel_ND: Features of the pixel model's.
        generator: Draws the subsets.
        subset_size: Images of each side in a subset; None takes 1000. Where a side has no more than 1000, all of them
            are one subset, the estimate of least variance (the larger side is drawn from).

    Returns:
        Mean over the subsets, their standard deviation (None for one), their number and size.

    Raises:
        ConfigError: torchmetrics is not installed, or a subset is larger than the sets.
        DataError: Fewer than two images on a side.

    Source:
        Binkowski et al. 2018, "Demystifying MMD GANs", sections 2 and 4.
    """
    least = min(len(source_ND), len(pixel_ND))
    if least < 2:
        raise _too_few(least, least=2)
    size = min(SUBSET_SIZE, least) if subset_size is None else subset_size
    if not 2 <= size <= least:
        raise ConfigError(
            "The kernel distance cannot be taken",
            found=f"subsets of {size}, and {least} images",
            expected="between 2 and all images in a subset",
            fix="Set a smaller subset_size, or leave it out.",
        )
    # The same subset again and again would only look like a spread.
    whole = size == len(source_ND) == len(pixel_ND)
    values = []
    for _ in range(1 if whole else NUM_SUBSETS):
        parts = [
            features_ND[torch.randperm(len(features_ND), generator=generator)[:size]].double().cpu()
            for features_ND in (source_ND, pixel_ND)
        ]
        values.append(_torchmetrics("kid").poly_mmd(*parts))
    values_S = torch.stack(values)
    return {
        "distance": values_S.mean().item(),
        "standard_deviation": None if whole else values_S.std().item(),
        "num_subsets": len(values),
        "subset_size": size,
    }


def inception_score(logits_NK: Tensor, *, seed: int, num_splits: int = 10) -> dict[str, Any]:
    """Return the inception score of one set of images: how sure their classes are, and how many there are.

    Args:
        logits_NK: Classes of each image, up to a constant for each.
        seed: Of the order in which images are split.
        num_splits: Parts whose scores are averaged, 10 by custom.

    Returns:
        Mean over the parts, their standard deviation (None for one), number of images and of parts.

    Raises:
        ConfigError: torchmetrics is not installed.
        DataError: Fewer images than parts.

    Source:
        Salimans et al. 2016, "Improved Techniques for Training GANs", section 4.
    """
    if len(logits_NK) < num_splits:
        raise _too_few(len(logits_NK), least=num_splits)
    inception = _torchmetrics("inception")
    # torchmetrics shuffles with torch's global generator, which is as before afterwards. It warns that it keeps the
    # logits, which are here already, and that one part has no deviation, which is not given then.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        metric = inception.InceptionScore(feature=torch.nn.Identity(), splits=num_splits)
        metric.update(logits_NK.double().cpu())
        mean, deviation = metric.compute()
    return {
        "score": mean.item(),
        "standard_deviation": deviation.item() if num_splits > 1 else None,
        "num_images": len(logits_NK),
        "num_splits": num_splits,
    }


def crop_corners(height: int, width: int, *, num: int, size_px: int, generator: torch.Generator) -> list[list[int]]:
    """Return top and left of random square crops.

    A pair of images shares them: the same places are compared.

    Raises:
        ConfigError: The crops are larger than the images.
    """
    if not 1 <= size_px <= min(height, width):
        raise ConfigError(
            "No crops of this size can be taken",
            found=f"crop_px = {size_px}, an image of {width} x {height} px",
            expected="crops that fit into the smallest image",
            fix="Set a smaller crop_px, or leave it out.",
        )
    tops = torch.randint(height - size_px + 1, (num,), generator=generator)
    lefts = torch.randint(width - size_px + 1, (num,), generator=generator)
    return [list(corner) for corner in zip(tops.tolist(), lefts.tolist(), strict=True)]


def crops(image_CHW: Tensor, corners: list[list[int]], *, size_px: int) -> Tensor:
    """Return square crops of an image, (N, C, size, size)."""
    return torch.stack([image_CHW[:, top : top + size_px, left : left + size_px] for top, left in corners])


def _torchmetrics(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"torchmetrics.image.{module}")
    except ImportError as error:
        raise ConfigError(
            "Distances between sets of images need torchmetrics",
            found=str(error),
            expected="torchmetrics, without torch-fidelity where torchvision is missing",
            fix="Run `pip install 'latent2pixel[eval]'`.",
        ) from error


def _too_few(number: int, *, least: int) -> DataError:
    return DataError(
        "There are too few images",
        found=f"{number}",
        expected=f"{least} or more on each side",
        fix="Make more images.",
    )
