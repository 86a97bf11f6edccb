"""The closed-form start, from folder to folder, on the shipped source and scenes of its own world."""

import json
import random
from dataclasses import replace

import pytest
import scipy.linalg
import scipy.optimize
import torch
from tests.tiny import EXAMPLES, GRID, HEAD, noise, tiny_lift, tiny_pipeline
from torch.nn import functional

from latent2pixel.convert import build_pixel_pipeline, convert
from latent2pixel.convert.images import FitImages
from latent2pixel.convert.initialise import MIN_R2_IN, SMALL_STD, LiftStatistics, encode_tokens, fit_lift
from latent2pixel.errors import DataError, GeometryError, OutputFolderError, SourceError
from latent2pixel.families import family_of
from latent2pixel.flow import add_noise, velocity_from_clean
from latent2pixel.generate import load_pipeline
from latent2pixel.model.codec import PixelVAE
from latent2pixel.model.predict import predict_velocity
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
    assert record["settings"]["input_map"] == "procrustes"
    assert record["lift"]["num_patches"] == 200 * 16
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    source = json.loads((SHIPPED_SOURCE / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == pytest.approx(source["shift"] * record["lift"]["implied_noise_shift"])


def test_figures_of_the_fit_are_in_the_models_config(converted):
    folder, _ = converted
    recorded = json.loads((folder / "conversion.json").read_text())["lift"]
    figures = load_pipeline(folder).transformer.config["lift_config"]["fit"]
    assert figures == {key: recorded[key] for key in figures}
    assert {"r2_in", "r2_out", "noise_gain", "implied_noise_shift"} < figures.keys()


def test_another_input_map_is_another_conversion(converted):
    folder, images_BCHW = converted
    images = FitImages(name="scenes", images=images_BCHW)
    with pytest.raises(OutputFolderError) as caught:
        convert(
            SHIPPED_SOURCE,
            folder,
            head=HEAD,
            num_blocks=1,
            fit_images=images,
            input_map="ridge",
            warm_up_steps=0,
            wiener=True,
            torch_dtype=torch.float32,
        )
    assert caught.value.found == "a conversion with other input_map"


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
        conditioning = family.collate(pipe.transformer, family.encode(pipe, captions), GRID)
        return (predict_velocity(pipe.transformer, noisy_BCHW, sigma_B, conditioning) - target).square().mean()

    captions = [scene.caption.text for scene in scenes[200:]]
    mean = velocity_from_clean(noisy_BCHW, images_BCHW.mean(0, keepdim=True).expand_as(images_BCHW), sigma_B)
    assert error(captions) < 0.5 * (mean - target).square().mean()
    assert error(captions) < error(captions[1:] + captions[:1])


def fit_tiny(name, images):
    pipe, fit_images = tiny_pipeline(name), FitImages(name="noise", images=images)
    return fit_lift(pipe, fit_images, encode_tokens(pipe, fit_images, patch_size=16), patch_size=16)


@pytest.mark.parametrize("name", EXAMPLES)
def test_latents_that_are_no_rotated_pixels_are_refused_with_the_measured_value(name):
    """A VAE with random weights."""
    with pytest.raises(SourceError, match=r"R\^2 -?0\.\d\d"):
        fit_tiny(name, noise(800, 3, 32, 32))


def test_no_images(converted):
    with pytest.raises(DataError, match="too few images"):
        fit_tiny(EXAMPLES[0], [])


def test_fit_in_parts_is_the_fit_of_the_whole():
    patches_ND, tokens_Nd = noise(400, 48), noise(400, 8, seed=1)
    patches_ND[:, :8] += 3 * tokens_Nd
    whole, parts = LiftStatistics(48, 8), LiftStatistics(48, 8)
    whole.add(patches_ND, tokens_Nd)
    for start in range(0, 400, 100):
        parts.add(patches_ND[start : start + 100], tokens_Nd[start : start + 100])
    first, second = whole.fit(), parts.fit()
    torch.testing.assert_close(first.basis_Dd, second.basis_Dd)
    assert first.figures() == pytest.approx(second.figures())


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


# -- figures, and other ways to find the map


def colourful_world():
    """Return statistics, patches and tokens: pixels of very different variance, latents that follow the small ones."""
    patches_ND = noise(2000, 48) * torch.linspace(3.0, 0.2, 48)
    tokens_Nd = patches_ND[:, ::6] @ noise(8, 8, seed=1) + 0.3 * noise(2000, 8, seed=2)
    statistics = LiftStatistics(48, 8)
    statistics.add(patches_ND, tokens_Nd)
    return statistics, patches_ND, tokens_Nd


def test_noise_gain_is_what_white_noise_becomes():
    fit = colourful_world()[0].fit()
    lifted_Nd = noise(20_000, 48, seed=5) @ fit.basis_Dd / fit.scale
    # 160,000 values: the variance has the relative error 0.0035
    assert fit.report()["noise_gain"] == pytest.approx(lifted_Nd.square().mean().item(), rel=0.02)


def test_residual_by_channel_is_that_of_the_decode():
    statistics, patches_ND, tokens_Nd = colourful_world()
    fit = statistics.fit()
    left_ND = patches_ND - tokens_Nd @ fit.decode_weight_Dd.T - fit.decode_bias_D
    left_C, whole_C = (each.var(0, correction=0).view(3, 16).mean(1) for each in (left_ND, patches_ND))
    channels = fit.report()["residual_by_channel"]
    assert [each["variance"] for each in channels] == pytest.approx(left_C.tolist(), rel=1e-3)
    assert [each["share"] for each in channels] == pytest.approx((left_C / whole_C).tolist(), rel=1e-3)
    assert channels[0]["variance"] > 2 * channels[2]["variance"]


def test_a_channel_that_never_varies_leaves_nothing():
    patches_ND, tokens_Nd = noise(400, 48), noise(400, 8, seed=1)
    patches_ND[:, :8] += 3 * tokens_Nd
    patches_ND[:, 32:] = -1.0
    statistics = LiftStatistics(48, 8)
    statistics.add(patches_ND, tokens_Nd)
    assert statistics.fit().report()["residual_by_channel"][2] == {"variance": 0.0, "share": 0.0}


def test_ridge_is_the_polar_factor_of_a_regression_as_quiet_as_procrustes():
    statistics, patches_ND, tokens_Nd = colourful_world()
    procrustes, ridge = statistics.fit(), statistics.fit(input_map="ridge")
    assert procrustes.least_squares_noise_gain > 1.2 * procrustes.figures()["noise_gain"]
    assert ridge.fitted_noise_gain == pytest.approx(procrustes.figures()["noise_gain"], rel=1e-6)
    pixels_ND, latents_Nd = ((each - each.mean(0)).double().numpy() for each in (patches_ND, tokens_Nd))

    def regression(log_ridge):
        # Ridge as extra rows of a least-squares problem.
        penalty_DD = (2000 * 10**log_ridge) ** 0.5 * torch.eye(48).double().numpy()
        return scipy.linalg.lstsq([*pixels_ND, *penalty_DD], [*latents_Nd, *torch.zeros(48, 8).numpy()])[0]

    gain = procrustes.figures()["noise_gain"]
    found = scipy.optimize.brentq(lambda log_ridge: (regression(log_ridge) ** 2).sum(0).mean() - gain, -5, 3)
    expected_Dd = torch.from_numpy(scipy.linalg.polar(regression(found))[0]).float()
    torch.testing.assert_close(ridge.basis_Dd, expected_Dd, atol=1e-4, rtol=0)
    assert (ridge.basis_Dd - procrustes.basis_Dd).abs().max() > 0.01


def test_least_squares_quieter_than_procrustes_need_no_ridge():
    patches_ND, tokens_Nd = noise(2000, 48), noise(2000, 8, seed=1)
    patches_ND[:, :8] += tokens_Nd  # half noise: the regression shrinks, Procrustes does not
    statistics = LiftStatistics(48, 8)
    statistics.add(patches_ND, tokens_Nd)
    fit = statistics.fit(input_map="ridge")
    assert fit.fitted_noise_gain < fit.figures()["noise_gain"]
    assert fit.fitted_noise_gain == pytest.approx(fit.least_squares_noise_gain, rel=1e-4)


@pytest.mark.parametrize("name", ["random", "small_random"])
def test_random_maps_are_orthonormal_unrelated_and_drawn_from_the_generator(name):
    statistics, _, _ = colourful_world()
    first, again, other = (
        statistics.fit(input_map=name, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.basis_Dd, again.basis_Dd)
    assert (first.basis_Dd - other.basis_Dd).abs().max() > 0.1
    torch.testing.assert_close(first.basis_Dd.T @ first.basis_Dd, torch.eye(8), atol=1e-5, rtol=0)
    assert first.r2_in < MIN_R2_IN < statistics.fit().r2_in
    with pytest.raises(ValueError, match="generator"):
        statistics.fit(input_map=name)


def test_small_random_has_small_weights_where_the_sources_stood():
    source, linear = tiny_pipeline(EXAMPLES[0]), tiny_lift()
    name = family_of(source.transformer).input_projections[0]
    weights = []
    for std in (None, SMALL_STD):
        model = build_pixel_pipeline(source, head=HEAD, lift=replace(linear, projection_std=std)).transformer
        weights.append(model.get_submodule(name).weight)
        assert torch.equal(model.get_submodule(name).bias, source.transformer.get_submodule(name).bias)
        assert torch.equal(model.lift.basis_Dd, linear.basis_Dd)
    # 36,864 weights: their standard deviation has the relative error 0.004
    assert weights[1].std().item() == pytest.approx(SMALL_STD, rel=0.02)
    assert weights[0].std() > 10 * SMALL_STD


# -- patches that are not of the size of a latent token


def linear_pipeline():
    """Return a source whose latent tokens are patches of 4 px themselves, and images with detail below that."""
    pipe, vae = tiny_pipeline(EXAMPLES[0]), PixelVAE(2)
    with torch.random.fork_rng(devices=[]):
        transformer = type(pipe.transformer).from_config({**pipe.transformer.config, "in_channels": 12})
    pipe.register_modules(vae=vae, transformer=transformer)
    pipe.vae_scale_factor = 2
    coarse_BCHW = noise(40, 3, 16, 24).repeat_interleave(2, -2).repeat_interleave(2, -1)
    detail_BCHW = noise(40, 3, 32, 48, seed=1)
    detail_BCHW = detail_BCHW - functional.avg_pool2d(detail_BCHW, 2).repeat_interleave(2, -2).repeat_interleave(2, -1)
    # Each image once with its detail and once with the negative: no correlation by chance, so the theory holds exactly.
    images_BCHW = torch.cat([coarse_BCHW + detail_BCHW, coarse_BCHW - detail_BCHW])
    return pipe, FitImages(name="linear", images=images_BCHW)


@pytest.mark.parametrize(("patch_size", "scale"), [(4, 1.0), (8, 2.0)])
def test_scale_and_shift_follow_the_patch(patch_size, scale):
    """A mean of 4 pixels is half their product with a unit vector: with patches twice as large, s is twice as large."""
    pipe, images = linear_pipeline()
    tokens = encode_tokens(pipe, images, patch_size=patch_size)
    fit = fit_lift(pipe, images, tokens, patch_size=patch_size)
    assert fit.scale == pytest.approx(scale, rel=1e-3)  # tokens are float16
    assert fit.r2_in == pytest.approx(1, abs=1e-5)
    assert fit.r2_out == pytest.approx(1, abs=1e-5)  # of the averaged image
    torch.testing.assert_close(fit.basis_Dd.T @ fit.basis_Dd, torch.eye(len(fit.offset_d)), atol=1e-5, rtol=0)
    patches_BDhw = functional.pixel_unshuffle(images.images, patch_size)
    lifted_Bdhw = torch.einsum("bDhw,Dd->bdhw", patches_BDhw, fit.basis_Dd) - fit.offset_d.view(-1, 1, 1)
    torch.testing.assert_close(lifted_Bdhw / fit.scale, torch.stack(tokens).float(), atol=0.01, rtol=0)
    decoded_BDhw = torch.einsum("bdhw,Dd->bDhw", torch.stack(tokens).float(), fit.decode_weight_Dd)
    decoded_BCHW = functional.pixel_shuffle(decoded_BDhw + fit.decode_bias_D.view(-1, 1, 1), patch_size)
    # Its tokens hold the averages of a quarter of a patch; finer detail is no part of them.
    decoded_BCHW, seen_BCHW = (functional.avg_pool2d(each, patch_size // 2) for each in (decoded_BCHW, images.images))
    torch.testing.assert_close(decoded_BCHW, seen_BCHW, atol=0.01, rtol=0)
    model = build_pixel_pipeline(pipe, patch_size=patch_size, head=(4, 8), lift=fit)
    family = family_of(model.transformer)
    assert family.shift(model.scheduler, 16) == pytest.approx(family.shift(pipe.scheduler, 16) * scale, rel=1e-3)


@pytest.mark.parametrize("name", EXAMPLES)
def test_patch_32_has_the_tokens_of_the_averaged_image(name):
    """Failed once, with a traceback: the fit met 16 px tokens and 32 px patches."""
    pipe, images_BCHW = tiny_pipeline(name), noise(2, 3, 64, 96)
    large = encode_tokens(pipe, FitImages(name="large", images=images_BCHW), patch_size=32)
    averaged = FitImages(name="averaged", images=functional.avg_pool2d(images_BCHW, 2))
    assert large[0].shape == (16, 2, 3)
    assert all(map(torch.equal, large, encode_tokens(pipe, averaged, patch_size=16)))


@pytest.mark.parametrize("size", [(16, 64), (64, 48)])
def test_images_that_are_no_whole_patches_are_refused(size):
    images = FitImages(name="small", images=noise(1, 3, *size))
    with pytest.raises(GeometryError, match=f"{size[0]} x {size[1]} px, image 0 of small"):
        encode_tokens(tiny_pipeline(EXAMPLES[0]), images, patch_size=32)


def test_patch_with_fewer_values_than_a_token_is_refused():
    pipe, images = linear_pipeline()
    with pytest.raises(GeometryError, match="fewer values"):
        fit_lift(pipe, images, encode_tokens(pipe, images, patch_size=2), patch_size=2)
