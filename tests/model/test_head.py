"""The detailer head: published structure, geometry, checkpointing."""

import pytest
import torch
from accelerate import init_empty_weights
from tests.tiny import HEAD, noise

from latent2pixel.errors import ConfigError
from latent2pixel.model.head import HEAD_CHANNELS, DetailerHead, head_channels
from latent2pixel.model.initialise import initialise_like_torch

PUBLISHED_WIDTH = 3840


def published(name: str) -> DetailerHead:
    with init_empty_weights():
        return DetailerHead(PUBLISHED_WIDTH, channels=HEAD_CHANNELS[name])


def test_1k_head_is_the_published_one():
    head = published("1k")
    assert len(list(head.parameters())) == 28
    assert sum(parameter.numel() for parameter in head.parameters()) == 10_085_123  # released file: 10.085 M
    shapes = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    assert shapes["enc.0.0.weight"] == (64, 3, 3, 3)
    assert shapes["bottleneck.0.weight"] == (512, 512 + PUBLISHED_WIDTH, 1, 1)
    assert [shapes[f"dec.{level}.0.weight"][0] for level in (3, 2, 1, 0)] == [256, 128, 64, 64]
    assert shapes["out_conv.weight"] == (3, 64, 1, 1)


def test_4k_head_has_its_bottleneck_at_a_64th():
    head = published("4k")
    assert len(head.enc) == 6
    assert tuple(head.enc[0][0].weight.shape) == (16, 3, 3, 3)


def test_output_has_the_size_of_the_image_for_any_feature_grid():
    head = DetailerHead(5, channels=HEAD)
    for grid in ((2, 3), (1, 1)):
        assert head(noise(2, 3, 32, 48), noise(2, 5, *grid)).shape == (2, 3, 32, 48)


def test_features_are_nearest_upsampled_to_the_bottleneck():
    head, image, feature = DetailerHead(5, channels=HEAD), noise(1, 3, 32, 32), noise(1, 5, 1, 1)
    assert torch.equal(head(image, feature), head(image, feature.expand(1, 5, 2, 2)))


def test_layer_norm_makes_the_head_blind_to_feature_scale():
    image, feature = noise(1, 3, 32, 32), noise(1, 5, 2, 2)
    raw = DetailerHead(5, channels=HEAD)
    normed = DetailerHead(5, channels=HEAD, feature_norm="layer_norm")
    assert not torch.allclose(raw(image, feature), raw(image, 100 * feature))
    torch.testing.assert_close(normed(image, feature), normed(image, 100 * feature), atol=1e-4, rtol=0)


def test_gradient_checkpointing_changes_nothing():
    head, image, feature = DetailerHead(5, channels=HEAD), noise(1, 3, 32, 32), noise(1, 5, 2, 2)
    calls = []

    def checkpoint(stage, *arguments):
        calls.append(stage)
        return torch.utils.checkpoint.checkpoint(stage, *arguments, use_reentrant=False)

    gradients = []
    for enabled in (False, True):
        head.zero_grad()
        head.gradient_checkpointing, head._gradient_checkpointing_func = enabled, checkpoint
        head(image, feature).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in head.parameters()])
    assert len(calls) == 2 * len(HEAD)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_initialisation_equals_torch_defaults():
    torch_default = torch.nn.Sequential(
        torch.nn.Linear(7, 5), torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(5, 2, bias=False)
    )
    ours = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(5, 2, bias=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for layer in torch_default:
            layer.reset_parameters()
    before = torch.get_rng_state()
    initialise_like_torch(ours, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(torch_default.parameters(), ours.parameters(), strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_initialisation_refuses_layers_it_does_not_know():
    with pytest.raises(TypeError, match="LayerNorm"):
        initialise_like_torch(torch.nn.LayerNorm(3), generator=torch.Generator())


@pytest.mark.parametrize("head", ["2k", (), (4, 0), (4, 2.5)])
def test_unknown_heads_are_refused(head):
    with pytest.raises(ConfigError):
        head_channels(head)


def test_unknown_feature_norm_is_refused():
    with pytest.raises(ConfigError, match="feature norm"):
        DetailerHead(5, channels=HEAD, feature_norm="batch_norm")
