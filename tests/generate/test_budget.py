"""Whole or in tiles, and the smallest budget that works."""

import psutil
import pytest
import torch
from tests.tiny import tiny_pixel_pipeline

from latent2pixel.errors import ConfigError
from latent2pixel.generate.budget import choose_tile, peak_bytes, require_within, whole_bytes

SIZE = (2048, 1024)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pixel_pipeline("z_image")


def test_whole_where_it_fits_in_tiles_where_not(pipe):
    whole = whole_bytes(pipe, SIZE, batch=1)
    assert choose_tile(pipe, SIZE, batch=1, budget_bytes=whole + 10**8) is None
    tile = choose_tile(pipe, SIZE, batch=1, budget_bytes=whole - 10**8)
    assert tile is not None
    assert tile % 16 == 0
    smaller = choose_tile(pipe, SIZE, batch=1, budget_bytes=psutil.Process().memory_info().rss + 10**8)
    assert 16 <= smaller < tile


def test_more_pictures_at_once_need_more(pipe):
    one, two = (whole_bytes(pipe, SIZE, batch=batch) - whole_bytes(pipe, SIZE, batch=0) for batch in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.05)


def test_too_small_a_budget_names_one_that_works(pipe):
    with pytest.raises(ConfigError, match="too small") as caught:
        choose_tile(pipe, SIZE, batch=1, budget_bytes=10**6)
    named = int(caught.value.expected.split("MB")[0]) * 10**6
    # The process itself grows by a little in the meantime.
    assert choose_tile(pipe, SIZE, batch=1, budget_bytes=named + 10**7) >= 16


def test_what_was_taken_already_counts():
    cpu = torch.device("cpu")
    require_within(None, cpu, before=0)
    require_within(peak_bytes(cpu) + 10**9, cpu, before=0)
    require_within(10**6, cpu, before=peak_bytes(cpu) + 10**9)
    with pytest.raises(ConfigError, match="trunk") as caught:
        require_within(10**6, cpu, before=0)
    assert int(caught.value.expected.split("MB")[0]) * 10**6 >= 10**8
