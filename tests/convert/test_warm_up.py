"""Stem and head learn without the trunk: on the shipped source and scenes of its own world."""

import random

import pytest
import torch

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.convert.images import FitImages
from latent2pixel.convert.initialise import encode_tokens, fit_lift
from latent2pixel.convert.warm_up import WarmUp, _Crops, warm_up
from latent2pixel.flow import add_noise
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.model.lift import NUM_LEVELS
from latent2pixel.world.levels import require_level
from latent2pixel.world.scenes import draw_scene
from latent2pixel.world.source_model import SHIPPED_SOURCE
from latent2pixel.world.train_vae import images_from_scenes

HEAD, SIGMA = (8, 16, 24, 32), 0.5
# Far too few steps for pictures; they show the direction in seconds.
SETTINGS = WarmUp(steps=60, batch_size=16)


@pytest.fixture(scope="module")
def world():
    generator = random.Random(0)
    scenes = [draw_scene(require_level("easy"), "train", generator=generator) for _ in range(280)]
    images_BCHW = images_from_scenes(scenes)
    source = open_pipeline(SHIPPED_SOURCE, dtype=torch.float32)
    return source, FitImages(name="scenes", images=images_BCHW[:240]), images_BCHW[240:]


def lifted_model(world):
    source, images, _ = world
    tokens = encode_tokens(source, images, patch_size=16)
    fit = fit_lift(source, images, tokens, patch_size=16)
    return build_pixel_pipeline(source, head=HEAD, lift=fit).transformer, tokens


@torch.no_grad()
def errors(model, world, sigma=SIGMA):
    """Return the squared errors of stem and decode on fresh scenes, given their latent tokens."""
    source, _, fresh_BCHW = world
    tokens_Bdhw = torch.stack(encode_tokens(source, FitImages(name="fresh", images=fresh_BCHW), patch_size=16)).float()
    sigma_B = torch.full((len(fresh_BCHW),), sigma)
    noisy_BCHW = add_noise(fresh_BCHW, torch.randn(fresh_BCHW.shape, generator=torch.Generator()), sigma_B)
    ends = model.lift_in(noisy_BCHW, sigma_B)
    image_BCHW = model.lift_out(noisy_BCHW, sigma_B, ends, tokens_Bdhw=tokens_Bdhw)
    stem = (ends.correction_Bdhw - model.lift.misfit_of(fresh_BCHW, tokens_Bdhw)).square().mean()
    return stem.item(), (image_BCHW - fresh_BCHW).square().mean().item()


@pytest.fixture(scope="module")
def warmed(world):
    model, tokens = lifted_model(world)
    before, trunk = errors(model, world), {key: value.clone() for key, value in model.layers.state_dict().items()}
    state = torch.get_rng_state()
    warm_up(model, world[1], tokens, settings=SETTINGS, shift=3.0, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    return model, before, trunk


def test_stem_and_decode_learn(warmed, world):
    model, before, _ = warmed
    after = errors(model, world)
    assert after[0] < 0.8 * before[0]
    assert after[1] < 0.8 * before[1]


def test_trunk_stays_as_it_was(warmed):
    model, _, trunk = warmed
    assert all(torch.equal(value, trunk[key]) for key, value in model.layers.state_dict().items())


@torch.no_grad()
def test_clock_tells_how_far_unseen_tokens_are_off(warmed, world):
    """On fresh scenes; 24 and 40 images, so within a tenth."""
    model, source = warmed[0], world[0]
    assert len(model.lift.gain_S) == NUM_LEVELS
    tokens_Bdhw = torch.stack(encode_tokens(source, FitImages(name="fresh", images=world[2]), patch_size=16)).float()
    for sigma in (0.2, 0.5, 0.8):
        sigma_B = torch.full((len(tokens_Bdhw),), sigma)
        noisy_BCHW = add_noise(world[2], torch.randn(world[2].shape, generator=torch.Generator()), sigma_B)
        correction_Bdhw = model.lift_in(noisy_BCHW, sigma_B).correction_Bdhw
        plain, told = (
            model.lift.enter(noisy_BCHW, sigma_B, correction_Bdhw=correction_Bdhw, told=told) for told in (False, True)
        )
        clock = told.sigma_B[0].item()
        off = (told.tokens_Bdhw - (1 - clock) * tokens_Bdhw).std().item()
        assert off == pytest.approx(clock, rel=0.1)
        assert clock > 1.02 * plain.sigma_B[0].item()


def test_same_seed_gives_the_same_weights(world):
    settings, states = WarmUp(steps=3, batch_size=4), []
    for _ in range(2):
        model, tokens = lifted_model(world)
        warm_up(model, world[1], tokens, settings=settings, shift=3.0, seed=1)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_bfloat16_model_stays_bfloat16(world):
    model, tokens = lifted_model(world)
    model.to(torch.bfloat16)
    warm_up(model, world[1], tokens, settings=WarmUp(steps=2, batch_size=4), shift=3.0, seed=1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.lift.stem.weight.abs().max() > 0


def test_crops_of_image_and_tokens_belong_together():
    patch = 64  # 256 px hold 4 such patches
    tokens = [torch.arange(48.0).view(1, 6, 8)]
    images = [tokens[0].repeat_interleave(patch, 1).repeat_interleave(patch, 2).expand(3, -1, -1)]
    draw = _Crops(FitImages(name="grid", images=images), tokens, patch=patch, generator=torch.Generator())
    seen = set()
    for _ in range(20):
        image_BCHW, tokens_Bdhw = draw([0])
        assert image_BCHW.shape == (1, 3, 256, 256)
        assert torch.equal(image_BCHW[:, :1, ::patch, ::patch], tokens_Bdhw)
        seen.add(tokens_Bdhw[0, 0, 0, 0].item())
    assert len(seen) > 5
