"""Distances against their closed forms on Gaussians; crops that stay in place."""

import math
import sys

import pytest
import torch

from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.distances import FrechetDistance, crop_corners, crops, inception_score, polynomial_mmd


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(num, mean_D, root_DD, *, seed):
    """Features whose sample mean and covariance are exactly those asked for: mean, and root @ root.T."""
    raw_ND = torch.randn(num, len(mean_D), generator=generator(seed), dtype=torch.float64)
    raw_ND = raw_ND - raw_ND.mean(0)
    white_ND = raw_ND @ torch.linalg.inv(torch.linalg.cholesky(raw_ND.T.cov())).T
    return white_ND @ torch.as_tensor(root_DD, dtype=torch.float64).T + torch.tensor(mean_D, dtype=torch.float64)


def frechet(source_ND, pixel_ND, parts=1):
    distance = FrechetDistance(source_ND.shape[1])
    for source, pixel in zip(source_ND.chunk(parts), pixel_ND.chunk(parts), strict=True):
        distance.add(source, pixel)
    return distance.result()


def test_frechet_distance_of_gaussians_is_its_closed_form():
    """Diagonal covariances: squared distance of the means and of the standard deviations."""
    source_ND = gaussian(200, [0.0, 1.0, 2.0], torch.diag(torch.tensor([1.0, 2.0, 0.5])), seed=0)
    pixel_ND = gaussian(150, [1.0, 1.0, 0.0], torch.diag(torch.tensor([2.0, 2.0, 3.5])), seed=1)
    result = frechet(source_ND, pixel_ND)
    assert result["distance"] == pytest.approx(1 + 4 + 1 + 0 + 9)
    assert result["num_source"] == 200
    assert result["num_pixel"] == 150
    assert result["full_rank"]


def test_frechet_distance_of_turned_gaussians():
    """Covariances diag(4, 1) and its turn by 90 degrees do not commute with one turned by 45: trace formula by hand."""
    turn = math.sqrt(0.5) * torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    result = frechet(
        gaussian(100, [0.0, 0.0], torch.diag(torch.tensor([2.0, 1.0])), seed=0),
        gaussian(100, [0.0, 0.0], turn @ torch.diag(torch.tensor([2.0, 1.0])), seed=1),
    )
    # trace (S1^1/2 S2 S1^1/2)^1/2 = sqrt(trace(S1 S2) + 2 sqrt(det S1 det S2)); trace(S1 S2) = 2.5 * 5 = 12.5, det 4.
    assert result["distance"] == pytest.approx(10 - 2 * math.sqrt(12.5 + 2 * 4))


def test_frechet_distance_does_not_depend_on_how_features_come_and_is_zero_for_equal_sets():
    source_ND = gaussian(90, [0.0, 5.0], [[1.0, 0.3], [0.3, 1.0]], seed=2)
    pixel_ND = source_ND.flip(1)
    assert frechet(source_ND, pixel_ND, parts=9) == pytest.approx(frechet(source_ND, pixel_ND))
    assert frechet(source_ND, source_ND)["distance"] == pytest.approx(0, abs=1e-9)


def test_few_images_are_told():
    features_ND = torch.randn(3, 4, generator=generator())
    assert not frechet(features_ND, features_ND)["full_rank"]
    with pytest.raises(DataError, match="too few images"):
        frechet(features_ND[:1], features_ND[:1])
    with pytest.raises(DataError, match="too few images"):
        polynomial_mmd(features_ND[:1], features_ND, generator=generator())


def test_kernel_distance_of_gaussians_is_its_closed_form():
    """For one feature, (xy + 1)^3 = 1 + 3 xy + 3 (xy)^2 + (xy)^3: the squared differences of moments, times 3, 3, 1."""
    mean, deviation = 0.6, 1.3
    source_N1 = torch.randn(40000, 1, generator=generator(0))
    pixel_N1 = mean + deviation * torch.randn(40000, 1, generator=generator(1))
    second, third = mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2
    expected = 3 * mean**2 + 3 * (second - 1) ** 2 + third**2
    result = polynomial_mmd(source_N1, pixel_N1, generator=generator(2))
    error = result["standard_deviation"] / math.sqrt(result["num_subsets"])
    assert result["num_subsets"] == 100
    assert result["subset_size"] == 1000
    assert abs(result["distance"] - expected) < 4 * error
    assert error < 0.1 * expected


def test_kernel_distance_is_unbiased():
    """Ten images from one distribution: the mean over many draws is 0, which with the diagonal it would not be."""
    values = []
    for seed in range(400):
        features_ND = torch.randn(20, 4, generator=generator(seed))
        values.append(polynomial_mmd(features_ND[:10], features_ND[10:], generator=generator())["distance"])
    values_S = torch.tensor(values)
    assert abs(values_S.mean()) < 3 * values_S.std() / math.sqrt(400)
    assert values_S.min() < 0 < values_S.max()


def test_kernel_distance_by_hand():
    """Two images a side, one subset of all: pairs of different images on a side, all pairs across."""
    source_ND, pixel_ND = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[2.0, 2.0], [0.0, -2.0]])

    def kernel(x, y):
        return (float(x @ y) / 2 + 1) ** 3

    across = sum(kernel(x, y) for x in source_ND for y in pixel_ND)
    expected = kernel(*source_ND) + kernel(*pixel_ND) - 2 * across / 4
    result = polynomial_mmd(source_ND, pixel_ND, generator=generator())
    assert result["distance"] == pytest.approx(expected)
    assert result["standard_deviation"] is None
    assert result["num_subsets"] == 1


def test_subsets_follow_the_generator_and_must_fit():
    source_ND = torch.randn(60, 3, generator=generator(0))
    pixel_ND = 1 + torch.randn(60, 3, generator=generator(1))
    one, same, other = (
        polynomial_mmd(source_ND, pixel_ND, generator=generator(seed), subset_size=10) for seed in (5, 5, 6)
    )
    assert one == same != other
    with pytest.raises(ConfigError, match="subsets of 61"):
        polynomial_mmd(source_ND, pixel_ND, generator=generator(), subset_size=61)


def test_inception_score_counts_sure_classes():
    """Images that are surely of K classes, equally often: K. Images without a sure class: 1. Half a bit in between."""
    sure_NK = 100 * torch.eye(5).repeat(40, 1)
    assert inception_score(sure_NK, seed=0, num_splits=1)["score"] == pytest.approx(5)
    assert inception_score(torch.zeros(50, 7), seed=0)["score"] == pytest.approx(1)
    biased_NK = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log().repeat(10, 1)
    expected = math.exp(0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))
    assert inception_score(biased_NK, seed=0, num_splits=1)["score"] == pytest.approx(expected)


def test_inception_score_is_seeded_and_leaves_the_global_generator_alone():
    logits_NK = torch.randn(40, 6, generator=generator())
    before = torch.get_rng_state()
    one, same, other = (inception_score(logits_NK, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(DataError, match="10 or more"):
        inception_score(logits_NK[:9], seed=0)


def test_crops_lie_inside_everywhere():
    """Positions in a map of their own coordinates: all of them are met, none sticks out."""
    corners = crop_corners(6, 5, num=400, size_px=4, generator=generator())
    assert {tuple(corner) for corner in corners} == {(top, left) for top in range(3) for left in range(2)}
    image_CHW = torch.arange(30.0).view(1, 6, 5)
    cut = crops(image_CHW, corners[:3], size_px=4)
    assert cut.shape == (3, 1, 4, 4)
    assert cut[:, 0, 0, 0].tolist() == [5 * top + left for top, left in corners[:3]]
    with pytest.raises(ConfigError, match="crop_px = 6"):
        crop_corners(6, 5, num=1, size_px=6, generator=generator())


def test_without_torchmetrics_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ConfigError, match=r"latent2pixel\[eval\]"):
        FrechetDistance(3)
