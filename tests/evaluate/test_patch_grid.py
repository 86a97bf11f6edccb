"""The patch-grid ratio sees tiles and nothing else."""

import pytest
import torch

from latent2pixel.errors import DataError
from latent2pixel.evaluate.patch_grid import patch_grid_ratio


def test_noise_has_no_grid():
    """White noise: every border is like every other pair of neighbours."""
    noise_BCHW = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert patch_grid_ratio(noise_BCHW, 16) == pytest.approx(1, abs=0.01)


def test_a_known_step_at_the_borders_in_one_direction_gives_the_known_ratio():
    """A ramp of slope 1 in both directions, 3 more at each border between columns: (4 + 1) / (1 + 1)."""
    ramp = torch.arange(32.0)
    columns = ramp + 3 * (torch.arange(32) // 8)
    image_BCHW = (ramp[:, None] + columns[None]).expand(2, 3, 32, 32)
    assert patch_grid_ratio(image_BCHW, 8) == pytest.approx(2.5)
    assert patch_grid_ratio(image_BCHW.transpose(-1, -2), 8) == pytest.approx(2.5)


def test_refuses_what_is_not_made_of_patches():
    """Another patch size, one patch alone, and pictures without any difference."""
    for shape, patch in (((1, 3, 64, 60), 16), ((1, 3, 16, 64), 16), ((1, 3, 64, 64), 1)):
        with pytest.raises(DataError, match="at least two by two"):
            patch_grid_ratio(torch.zeros(shape), patch)
    with pytest.raises(DataError, match="no difference between the pixels"):
        patch_grid_ratio(torch.zeros(1, 3, 64, 64), 16)
