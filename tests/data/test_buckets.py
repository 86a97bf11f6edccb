"""Buckets of about one area, with whole patches, the nearest aspect for every image."""

import math

import pytest

from latent2pixel.data.buckets import bucket_of, bucket_sizes


@pytest.mark.parametrize(("image_size_px", "patch_px"), [(1024, 16), (1024, 32), (512, 16), (64, 8)])
def test_sides_are_whole_patches_and_areas_alike(image_size_px, patch_px):
    sizes = bucket_sizes(image_size_px, patch_px=patch_px)
    assert (image_size_px, image_size_px) in sizes
    assert len(sizes) >= 5
    for height, width in sizes:
        assert height % patch_px == width % patch_px == 0
        # rounding moves each side by half a patch at most
        assert abs(height * width / image_size_px**2 - 1) < patch_px * (1 / height + 1 / width)
        assert (width, height) in sizes


def test_nearest_aspect_by_the_logarithm():
    sizes = bucket_sizes(1024, patch_px=16)
    assert bucket_of((3000, 3000), sizes) == (1024, 1024)
    for height, width in ((3000, 2000), (2000, 3000), (500, 5000), (1100, 1024), (2000, 1117)):
        chosen = bucket_of((height, width), sizes)
        distance = {size: abs(math.log(size[0] / size[1]) - math.log(height / width)) for size in sizes}
        # areas differ by their rounding, so that a tie of 1 % may be broken either way
        assert distance[chosen] <= min(distance.values()) + 0.01
        assert (chosen[0] > chosen[1]) == (height > width) or chosen == (1024, 1024)
