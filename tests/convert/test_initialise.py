"""The closed-form start, from folder to folder, on the shipped source and scenes of its own world."""

import json
import random

import pytest
import torch
from tests.tiny import FAMILIES, HEAD, noise, tiny_pipeline

from latent2pixel.convert import convert
from latent2pixel.convert.images import FitImages
from latent2pixel.convert.initialise import LiftStatistics, encode_tokens, fit_lift
from latent2pixel.errors import DataError, SourceError
from latent2pixel.families import family_of
from latent2pixel.flow import add_noise, velocity_from_clean
from latent2pixel.generate import load_pipeline
from latent2pixel.model.pixel_transformer import predict_velocity
from latent2pixel.world.levels import require_level
from latent2pixel.world.scenes import draw_scene
from latent2pixel.world.source_model import SHIPPED_SOURCE
from latent2pixel.world.train_vae import images_from_scenes

SIGMA = 0.7


@pytest.fixture(scope="module")
def scenes():
    generator = random.Random(0)
    return [draw_scene(require_level("easy"), "train", generator=generator) for _ in range(300)]


@pytest.fixture(scope="module")
def converted(scenes, tmp_path_factory):
    images_BCHW = images_from_scenes(scenes)
    folder = tmp_path_factory.mktemp("lift") / "pixel"
    images = FitImages(name="scenes", images=images_BCHW[:200])
    convert(
        SHIPPED_SOURCE,
        folder,
        head=HEAD,
        num_blocks=1,
        fit_images=images,
        warm_up_steps=0,
        wiener=True,
        torch_dtype=torch.float32,
    )
    return folder, images_BCHW[200:]


def test_fit_is_recorded_and_the_shift_follows(converted):
    folder, _ = converted
    record = json.loads((folder / "conversion.json").read_text())
    assert record["settings"]["fit_images"] == "scenes"
    assert record["lift"]["num_patches"] == 200 * 16
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    source = json.loads((SHIPPED_SOURCE / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == pytest.approx(source["shift"] * record["lift"]["scale"])


@torch.no_grad()
def test_untrained_model_predicts_fresh_scenes(converted, scenes):
    """Against the best guess that looks at no pixel, the mean picture, and with captions that matter."""
    folder, images_BCHW = converted
    pipe = load_pipeline(folder)
    family = family_of(pipe.transformer)
    sigma_B = torch.full((len(images_BCHW),), SIGMA)
    noisy_BCHW = add_noise(images_BCHW, noise(*images_BCHW.shape), sigma_B)
    target = velocity_from_clean(noisy_BCHW, images_BCHW, sigma_B)

    def error(captions):
        conditioning = family.collate(family.encode(pipe, captions), device="cpu", dtype=torch.float32)
        return (predict_velocity(pipe.transformer, noisy_BCHW, sigma_B, conditioning) - target).square().mean()

    captions = [scene.caption.text for scene in scenes[200:]]
    mean = velocity_from_clean(noisy_BCHW, images_BCHW.mean(0, keepdim=True).expand_as(images_BCHW), sigma_B)
    assert error(captions) < 0.5 * (mean - target).square().mean()
    assert error(captions) < error(captions[1:] + captions[:1])


def fit_tiny(name, images):
    pipe, fit_images = tiny_pipeline(name), FitImages(name="noise", images=images)
    return fit_lift(pipe, fit_images, encode_tokens(pipe, fit_images), patch_size=16)


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_that_are_no_rotated_pixels_are_refused_with_the_measured_value(name):
    """A VAE with random weights."""
    with pytest.raises(SourceError, match=r"R\^2 -?0\.\d\d"):
        fit_tiny(name, noise(800, 3, 32, 32))


def test_no_images(converted):
    with pytest.raises(DataError, match="too few images"):
        fit_tiny(FAMILIES[0], [])


def test_fit_in_parts_is_the_fit_of_the_whole():
    patches_ND, tokens_Nd = noise(400, 48), noise(400, 8, seed=1)
    patches_ND[:, :8] += 3 * tokens_Nd
    whole, parts = LiftStatistics(48, 8), LiftStatistics(48, 8)
    whole.add(patches_ND, tokens_Nd)
    for start in range(0, 400, 100):
        parts.add(patches_ND[start : start + 100], tokens_Nd[start : start + 100])
    first, second = whole.fit(), parts.fit()
    torch.testing.assert_close(first.basis_Dd, second.basis_Dd)
    assert first.report() == pytest.approx(second.report())


def test_least_squares_r2_is_that_of_a_regression():
    patches_ND, tokens_Nd = noise(400, 48), noise(400, 8, seed=1)
    patches_ND[:, :8] += 3 * tokens_Nd
    statistics = LiftStatistics(48, 8)
    statistics.add(patches_ND, tokens_Nd)
    centred_ND, target_Nd = patches_ND - patches_ND.mean(0), tokens_Nd - tokens_Nd.mean(0)
    missed_Nd = target_Nd - centred_ND @ torch.linalg.lstsq(centred_ND, target_Nd).solution
    fit = statistics.fit()
    expected = 1 - float(missed_Nd.square().sum() / target_Nd.square().sum())
    assert fit.r2_least_squares == pytest.approx(expected, abs=1e-4)
    assert fit.r2_in < fit.r2_least_squares
