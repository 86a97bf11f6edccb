"""Every cut-off of the positions, on boxes of 10 x 10 px: their slack is 0.1 x (10 + 10) = 2 px on each axis."""

import pytest

from latent2pixel.evaluate.geneval.relations import relations


def box(x: float, y: float, width: float = 10, height: float = 10) -> tuple[float, float, float, float]:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


ORIGIN = box(0, 0)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((-50, 0), {"left of"}),
        ((50, 0), {"right of"}),
        ((0, -50), {"above"}),
        ((0, 50), {"below"}),
        ((-50, -50), {"left of", "above"}),
        ((50, 50), {"right of", "below"}),
        ((0, 0), set()),
        # Within the slack on both axes.
        ((2, -2), set()),
        # What is left of the offset counts against the whole: 2 / 4 does not exceed a half, 2.1 / 4.1 does.
        ((4, 0), set()),
        ((4.1, 0), {"right of"}),
        ((-4, 0), set()),
        ((-4.1, 0), {"left of"}),
        ((0, 4), set()),
        ((0, -4), set()),
        ((0, -4.1), {"above"}),
        # 46 / 88.8 exceeds a half, but 44 / 88.8, without the slack, does not; 45 / 89.4 does.
        ((46, 76), {"below"}),
        ((47, 76), {"right of", "below"}),
    ],
)
def test_cut_offs(place, expected):
    assert relations(box(*place), ORIGIN) == expected


def test_the_slack_grows_with_the_boxes_and_on_each_axis_by_its_own_extents():
    wide, flat = box(20, 0, width=100, height=10), box(0, 0, width=90, height=10)
    assert relations(wide, flat) == set()  # slack 19 px, 1 px of 20 is left
    assert relations(box(0, 20, width=100), flat) == {"below"}  # slack 2 px


def test_the_other_way_round_is_the_opposite():
    a, b = box(30, 10), box(0, 0)
    assert relations(a, b) == {"right of"}
    assert relations(b, a) == {"left of"}


def test_less_than_a_thousandth_of_a_pixel_is_no_offset():
    point = box(0, 0, 0, 0)
    assert relations(box(0.0009, 0, 0, 0), point) == set()
    assert relations(box(0.0011, 0, 0, 0), point) == {"right of"}
