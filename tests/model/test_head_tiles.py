"""The head in tiles against the untiled head, value and gradient; its halo; the tile of a budget."""

from dataclasses import replace

import pytest
import torch
from tests.tiny import HEAD, noise, tiny_lift, tiny_pixel_pipeline, token_dim_of

from latent2pixel.errors import ConfigError
from latent2pixel.model.head import DetailerHead
from latent2pixel.model.head_budget import head_bytes, tile_for_budget
from latent2pixel.model.head_tiles import run_tile, tile_axis
from latent2pixel.train.live_bytes import LiveBytes

SIZE = (11 * 16, 9 * 16)


@pytest.mark.parametrize("norm", ["none", "layer_norm"])
@pytest.mark.parametrize("channels", [(3,), (4, 6), HEAD])
@pytest.mark.parametrize("grid", [(11, 9), (3, 4)])
def test_value_and_gradient_are_those_of_the_untiled_head(norm, channels, grid):
    head = DetailerHead(5, channels=channels, feature_norm=norm)
    results = []
    for tile_px in (None, 37, 64, 1000):
        head.tile_px = tile_px
        head.zero_grad()
        image, feature = noise(2, 3, *SIZE).requires_grad_(), noise(2, 5, *grid, seed=1).requires_grad_()
        out = head(image, feature)
        (out * noise(*out.shape, seed=2)).mean().backward()
        results.append([out, image.grad, feature.grad, *(parameter.grad for parameter in head.parameters())])
    for tiled in results[1:]:
        for got, expected in zip(tiled, results[0], strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [(1, 0), (0, 1)])
@torch.no_grad()
def test_one_unit_less_of_the_halo_is_not_enough(side):
    head, image = DetailerHead(5, channels=HEAD).double(), noise(1, 3, *SIZE).double()
    feature, places = noise(1, 5, 11, 9).double(), (list(range(11)), list(range(9)))
    rows = tile_axis((80, 96), size_px=SIZE[0], num_levels=4)
    columns = tile_axis((0, SIZE[1]), size_px=SIZE[1], num_levels=4)
    cut = replace(rows, image=(rows.image[0] + 16 * side[0], rows.image[1] - 16 * side[1]))
    whole = head(image, feature)[:, :, 80:96]
    for axis, same in ((rows, True), (cut, False)):
        tokens = (places[0][slice(*axis.coarse)], places[1])
        out = run_tile(head, image[:, :, slice(*axis.image)], feature, tokens, (axis, columns))
        assert ((out - whole).abs().max().item() < 1e-12) is same


@pytest.mark.parametrize("tile_px", [None, 16, 48, 64])
@torch.no_grad()
def test_estimate_is_the_measured_peak(tile_px):
    head, image, feature = DetailerHead(16, channels=HEAD), noise(1, 3, *SIZE), noise(1, 16, 11, 9)
    head.tile_px = tile_px
    with LiveBytes() as live:
        live.count([image, feature, *head.parameters()], "given")
        live.restart()
        head(image, feature)
    peak = live.at_peak.total() - live.at_peak["given"]
    estimate = head_bytes(HEAD, SIZE, tile_px=tile_px, dtype=torch.float32, feature_dim=16)
    assert estimate == pytest.approx(peak, rel=0.2)


def test_budget_too_small_names_the_smallest_that_works():
    def choose(budget):
        return tile_for_budget(
            (64, 128, 256, 512), (1024, 1024), budget_bytes=budget, dtype=torch.float32, feature_dim=3840
        )

    assert choose(10**11) is None
    with pytest.raises(ConfigError) as caught:
        choose(10**6)
    smallest = int(caught.value.expected.split("MB")[0]) * 10**6
    assert choose(smallest) == 16
    with pytest.raises(ConfigError):
        choose(smallest - 10**6)


@pytest.mark.parametrize("tile_px", [0, -16, 1.5, True])
def test_tile_that_is_no_size_is_refused(tile_px):
    with pytest.raises(ConfigError, match="tile"):
        DetailerHead(5, channels=HEAD).tile_px = tile_px


@torch.no_grad()
def test_lifted_ends_are_those_of_the_untiled_head():
    model = tiny_pixel_pipeline("z_image", lift=tiny_lift("z_image")).transformer
    for parameter in (*model.head.parameters(), *model.lift.stem.parameters()):
        parameter.copy_(0.2 * noise(*parameter.shape))
    image, sigma_B, tokens = noise(1, 3, *SIZE), torch.tensor([0.5]), noise(1, token_dim_of("z_image"), 11, 9)
    made = []
    for tile_px in (None, 37):
        model.head.tile_px = tile_px
        ends = model.lift_in(image, sigma_B)
        made.append((ends.correction_Bdhw, model.lift_out(image, sigma_B, ends, tokens_Bdhw=tokens)))
    for untiled, tiled in zip(*made, strict=True):
        torch.testing.assert_close(tiled, untiled, atol=1e-5, rtol=1e-5)
