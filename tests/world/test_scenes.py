"""Scenes show what their caption says, nothing else, and keep their distances."""

import math
import random

import pytest
from tests.world.scenes_for_tests import heldout_scenes

from latent2pixel.world.captions import RELATIONS, TASKS, captions
from latent2pixel.world.levels import LEVELS, RADII
from latent2pixel.world.scenes import EDGE_MARGIN, GAP, compose_scene, draw_scene


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_objects_are_those_of_the_caption(level):
    for scene in heldout_scenes(level, 30):
        wanted = [request for request in scene.caption.requests for _ in range(request.count)]
        assert [item.shape for item in scene.objects] == [request.shape for request in wanted]
        for item, request in zip(scene.objects, wanted, strict=True):
            assert request.color in (None, item.color)
            assert item.pattern == (request.pattern or "plain")
        assert scene.caption.background in (None, scene.background)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_objects_lie_inside_and_apart(level):
    for scene in heldout_scenes(level, 30):
        items = scene.objects
        for i, a in enumerate(items):
            assert RADII[len(items)][0] <= a.radius <= RADII[len(items)][1]
            for center in (a.x, a.y):
                assert a.radius + EDGE_MARGIN <= center <= 1 - a.radius - EDGE_MARGIN
            for b in items[:i]:
                assert math.hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + GAP


def test_relations_hold():
    for scene in heldout_scenes(LEVELS["easy"], 60, tasks=["position"]):
        first, second = scene.objects
        axis_x, axis_y = RELATIONS[scene.caption.relation]
        assert (first.x - second.x) * axis_x + (first.y - second.y) * axis_y > 0.3


def test_large_is_larger_than_small():
    radii = {"small": [], "large": []}
    for scene in heldout_scenes(LEVELS["easy"], 100, tasks=["single_object"]):
        if size := scene.caption.requests[0].size:
            radii[size].append(scene.objects[0].radius)
    assert max(radii["small"]) < min(radii["large"])


def test_counted_objects_share_a_colour_and_others_do_not():
    for scene in heldout_scenes(LEVELS["easy"], 40, tasks=["counting"]):
        assert len({item.color for item in scene.objects}) == 1
    for scene in heldout_scenes(LEVELS["easy"], 40, tasks=["two_object", "position"]):
        assert len({item.color for item in scene.objects}) == 2


@pytest.mark.parametrize("task", TASKS)
def test_same_generator_gives_the_same_scene(task):
    first, second = (draw_scene(LEVELS["full"], "train", generator=random.Random(3), task=task) for _ in range(2))
    assert first == second
    assert first.caption in captions(LEVELS["full"], task, "train")


def test_one_caption_has_many_pictures():
    caption = captions(LEVELS["easy"], "two_object", "heldout")[0]
    generator = random.Random(0)
    assert compose_scene(LEVELS["easy"], caption, generator=generator) != compose_scene(
        LEVELS["easy"], caption, generator=generator
    )
