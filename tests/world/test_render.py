"""Rendering at any size, with exact areas."""

import math

import numpy as np
import pytest
from tests.world.scenes_for_tests import heldout_scenes

from latent2pixel.errors import GeometryError
from latent2pixel.world.levels import BACKGROUNDS, LEVELS, PALETTE
from latent2pixel.world.render import SHAPES, coverage, render, shape_moments

UNIT_AREAS = {
    "circle": math.pi * 0.92**2,
    "square": 1.6**2,
    "triangle": 0.95 * 1.75,
    "cross": 2 * 0.66 * 1.9 - 0.66**2,
    "star": 10 * 0.5 * 0.45 * math.sin(math.pi / 5),
    "ring": math.pi * (0.95**2 - 0.45**2),
}
"""Areas of the shapes of radius one, by school geometry."""


@pytest.mark.parametrize("size_px", [64, 65, 100, 257, 4096])
def test_any_size_in_range(size_px):
    scene = heldout_scenes(LEVELS["full"], 1, tasks=["color_attr"])[0]
    image_HWC = render(scene, size_px)
    assert image_HWC.shape == (size_px, size_px, 3)
    assert image_HWC.dtype == np.uint8
    assert tuple(image_HWC[0, 0]) == BACKGROUNDS[scene.background]
    shown = {
        tuple(int(value) for value in color) for color in image_HWC[:: size_px // 64, :: size_px // 64].reshape(-1, 3)
    }
    assert {PALETTE[item.color] for item in scene.objects} - shown <= {
        PALETTE[item.color] for item in scene.objects if item.shape == "ring"
    }


@pytest.mark.parametrize("size_px", [63, 4097, 0])
def test_size_out_of_range_is_a_users_error(size_px):
    with pytest.raises(GeometryError, match=f"{size_px} px"):
        render(heldout_scenes(LEVELS["easy"], 1)[0], size_px)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_two_sizes_of_a_scene_agree(level):
    for scene in heldout_scenes(level, 3):
        large = render(scene, 256).astype(np.float64).reshape(64, 4, 64, 4, 3).mean((1, 3))
        difference = np.abs(large - render(scene, 64))
        # Only edge pixels may differ: coverage from distances is off by up to a tenth at corners and stripe edges.
        assert difference.mean() < 1.0
        assert (difference.max(-1) > 40).mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_has_the_shapes_area(shape):
    area = coverage(shape, 64.3, 63.8, 40.0, (128, 128)).sum() / 40.0**2
    assert area == pytest.approx(UNIT_AREAS[shape], rel=0.005)
    assert shape_moments(shape)[0] == pytest.approx(UNIT_AREAS[shape], rel=0.001)


def test_coverage_is_where_it_was_asked_for():
    covered_HW = coverage("square", 30.0, 50.0, 10.0, (80, 60))
    assert covered_HW.shape == (80, 60)
    assert covered_HW[50, 30] == 1
    assert covered_HW[:41].max() == 0
    assert covered_HW[42:58, 22:38].min() == 1
    assert covered_HW[:, 39:].max() == 0


def test_triangle_points_up():
    covered_HW = coverage("triangle", 32, 32, 20, (64, 64))
    widths = covered_HW.sum(1)
    assert widths[18] < widths[40]


def test_striped_object_is_its_colour_and_a_darker_one():
    scenes = heldout_scenes(LEVELS["full"], 80, tasks=["colors"])
    scene = next(s for s in scenes if s.objects[0].pattern == "striped" and s.objects[0].shape == "square")
    item = scene.objects[0]
    image_HWC = render(scene, 256)
    x_px, y_px, half_px = (int(value * 256) for value in (item.x, item.y, 0.7 * item.radius))
    inside = image_HWC[y_px - half_px : y_px + half_px, x_px - half_px : x_px + half_px].reshape(-1, 3)
    brightness = inside.sum(1) / sum(PALETTE[item.color])
    assert brightness.max() == pytest.approx(1, abs=0.02)
    assert brightness.min() == pytest.approx(0.55, abs=0.02)
