"""The patch ladder against its algebra: the new model sees the mean of four sub-patches, and noise half as strong."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from tests.tiny import EXAMPLES, GRID, PROMPTS, noise, tiny_lift, tiny_pipeline, tiny_pixel_pipeline
from torch.nn import functional
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.convert.ladder import climb, double_patch
from latent2pixel.errors import OutputFolderError, SourceError
from latent2pixel.families import family_of
from latent2pixel.flow import add_noise, shift_sigma
from latent2pixel.generate import load_pipeline
from latent2pixel.model.predict import predict_tokens

OLD_SIGMAS = torch.tensor([0.0, 0.2, 0.6, 0.97, 1.0])
"""Noise levels of the old model, one an image."""
NEW_SIGMAS = shift_sigma(OLD_SIGMAS, 2.0)
"""Those of the new one: twice the ratio of noise to signal, as its tokens average the noise down to half."""


@pytest.fixture(params=EXAMPLES)
def plain(request):
    return tiny_pixel_pipeline(request.param)


@pytest.fixture(params=EXAMPLES)
def lifted(request):
    return lifted_pipeline(request.param)


@pytest.fixture(params=[(name, is_lifted) for name in EXAMPLES for is_lifted in (False, True)], ids=str)
def either(request):
    name, is_lifted = request.param
    return lifted_pipeline(name) if is_lifted else tiny_pixel_pipeline(name)


def lifted_pipeline(name):
    """As converted, but for offsets of lift and decode that are not zero."""
    pipe = tiny_pixel_pipeline(name, lift=tiny_lift())
    with torch.no_grad():
        pipe.transformer.lift.offset_d.copy_(noise(16, seed=5))
        pipe.transformer.lift.decode.bias.copy_(noise(3 * 16**2, seed=7))
    return pipe


def mean_of_sub_patches(image_BCHW, patch):
    """Return the image of half the size whose patches are the means of the four sub-patches."""
    return functional.pixel_shuffle(functional.avg_pool2d(functional.pixel_unshuffle(image_BCHW, patch), 2), patch)


def repeated(image_BCHW, patch):
    """Return the image of twice the size that shows every patch four times, 2 x 2."""
    patches_BDhw = functional.pixel_unshuffle(image_BCHW, patch)
    return functional.pixel_shuffle(functional.interpolate(patches_BDhw, scale_factor=2, mode="nearest"), patch)


@torch.no_grad()
def projected(pipe, image_BCHW):
    """Return what the real input projection makes of the real sample, (B, w, rows, columns), and its bias."""
    model = pipe.transformer
    (projection,) = (model.get_submodule(name) for name in model.trunk.input_projections)
    tokens_BDhw = model.trunk.tokens(functional.pixel_unshuffle(image_BCHW, model.factor))
    return projection(tokens_BDhw.movedim(1, -1)).movedim(-1, 1), projection.bias.view(-1, 1, 1)


def sampled(pipe, *, height=64, width=128):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    # A copy: the stock pipeline writes its chat template into the list that it is given.
    return pipe(
        list(PROMPTS), height=height, width=width, num_inference_steps=2, guidance_scale=2.0, generator=generator,
        output_type="np",
    ).images  # fmt: skip


# -- input projection


def test_equal_sub_patches_count_twice(plain):
    image_BCHW = noise(2, 3, 32, 48)
    old_BwHW, bias_w11 = projected(plain, image_BCHW)
    new_BwHW, _ = projected(double_patch(plain), repeated(image_BCHW, 16))
    assert bias_w11.abs().min() > 0
    torch.testing.assert_close(new_BwHW, 2 * (old_BwHW - bias_w11) + bias_w11, atol=1e-5, rtol=1e-5)


def test_projection_is_half_the_sum_of_any_sub_patches(plain):
    image_BCHW = noise(2, 3, 64, 96)
    old_BwHW, bias_w11 = projected(plain, image_BCHW)
    new_BwHW, _ = projected(double_patch(plain), image_BCHW)
    expected_BwHW = 0.5 * 4 * functional.avg_pool2d(old_BwHW - bias_w11, 2) + bias_w11
    torch.testing.assert_close(new_BwHW, expected_BwHW, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["z_image", "flux"])
def test_a_patch_that_is_no_power_of_two_is_doubled_too(name):
    """48 to 96: the trunk sees the same sums of sub-patches, and the pipeline its folds, from 8 px to 16."""
    plain, image_BCHW = tiny_pixel_pipeline(name, patch_size=48), noise(1, 3, 96, 192)
    doubled = double_patch(plain)
    (old_BwHW, bias_w11), (new_BwHW, _) = projected(plain, image_BCHW), projected(doubled, image_BCHW)
    expected_BwHW = 0.5 * 4 * functional.avg_pool2d(old_BwHW - bias_w11, 2) + bias_w11
    torch.testing.assert_close(new_BwHW, expected_BwHW, atol=1e-5, rtol=1e-5)
    assert (plain.vae.config["factor"], doubled.vae.config["factor"]) == (8, 16)
    assert np.isfinite(sampled(doubled, height=96, width=192)).all()


@pytest.mark.parametrize("name", ["z_image", "flux", "qwen21"])
def test_the_shift_of_an_image_doubles_whatever_the_pipeline_counts(name):
    """Its tokens grow with the patch, or, for Qwen-Image 2.1, stay what they are."""
    plain = tiny_pixel_pipeline(name)
    doubled, family = double_patch(plain), family_of(plain.transformer)
    old, new = (
        family.shift(pipe.scheduler, pipe.transformer.pipeline_tokens(grid))
        for pipe, grid in ((plain, (4, 8)), (doubled, (2, 4)))
    )
    assert new == pytest.approx(2 * old)


def test_noise_of_a_token_keeps_its_covariance(plain):
    """White pixels through W have the covariance ``W W^T``."""
    names = plain.transformer.trunk.input_projections
    for name in names:
        old_wD, new_wD = (pipe.transformer.get_submodule(name).weight.detach() for pipe in (plain, double_patch(plain)))
        torch.testing.assert_close(new_wD @ new_wD.T, old_wD @ old_wD.T)


def test_all_else_is_shared_with_the_old_model(either):
    old, new = either.transformer.state_dict(), double_patch(either).transformer.state_dict()
    replicated = {f"{name}.weight" for name in either.transformer.trunk.input_projections}
    if either.transformer.config["lift_config"]:
        replicated |= {"lift.basis_Dd", "lift.offset_d", "lift.decode.weight", "lift.decode.bias"}
    assert new.keys() == old.keys()
    assert {key for key in old if new[key].data_ptr() != old[key].data_ptr()} == replicated


def test_dtype_and_mode_are_kept_without_rounding(either):
    exact = double_patch(either).transformer
    assert not exact.training
    exact = exact.to(torch.bfloat16).state_dict()
    either.transformer.to(torch.bfloat16).train()
    doubled = double_patch(either).transformer
    assert doubled.training
    state = doubled.state_dict()
    assert all(state[key].dtype == torch.bfloat16 and torch.equal(state[key], exact[key]) for key in state)


# -- lift


def test_lift_of_noise_stays_white(lifted):
    basis_Dd = double_patch(lifted).transformer.lift.basis_Dd
    assert basis_Dd.shape == (3 * 32**2, 16)
    torch.testing.assert_close(basis_Dd.T @ basis_Dd, torch.eye(16), atol=1e-5, rtol=0)


def test_config_claims_no_fit(lifted):
    old, doubled = lifted.transformer, double_patch(lifted).transformer
    assert old.config["lift_config"]["fit"]
    expected = {"scale": 2 * old.lift.scale, "token_dim": 16, "wiener": False, "fit": {}}
    assert doubled.config["lift_config"] == expected
    assert doubled.lift.scale == expected["scale"]


@pytest.mark.parametrize("told", [False, True])
@torch.no_grad()
def test_lift_sees_the_mean_of_sub_patches_at_the_same_clock(lifted, told):
    """For any image and noise, wherever the tables say the same at both noise levels; these here say it everywhere."""
    old = lifted.transformer.lift
    old.gain_S.fill_(0.8), old.misfit_S.fill_(0.3), old.token_mean_d.copy_(noise(16, seed=6))
    new = double_patch(lifted).transformer.lift
    image_BCHW, noise_BCHW = noise(5, 3, 64, 96), noise(5, 3, 64, 96, seed=1)
    correction_Bdhw = noise(5, 16, 2, 3, seed=2)
    # The mean of four white values has half their size; twice that is white again.
    mean_BCHW, white_BCHW = mean_of_sub_patches(image_BCHW, 16), 2 * mean_of_sub_patches(noise_BCHW, 16)
    options = {"correction_Bdhw": correction_Bdhw, "told": told}
    expected = old.enter(add_noise(mean_BCHW, white_BCHW, OLD_SIGMAS), OLD_SIGMAS, **options)
    actual = new.enter(add_noise(image_BCHW, noise_BCHW, NEW_SIGMAS), NEW_SIGMAS, **options)
    torch.testing.assert_close(actual.sigma_B, expected.sigma_B)
    torch.testing.assert_close(actual.tokens_Bdhw, expected.tokens_Bdhw, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_noise_repeated_patches_are_the_old_tokens_whatever_the_tables(lifted):
    old = lifted.transformer.lift
    old.gain_S.copy_(torch.linspace(0.9, 0.5, len(old.gain_S)))
    old.misfit_S.copy_(torch.linspace(0.2, 0.6, len(old.misfit_S)))
    old.token_mean_d.copy_(noise(16, seed=6))
    image_BCHW, sigma_B = noise(2, 3, 32, 48), torch.zeros(2)
    expected = old.enter(image_BCHW, sigma_B)
    actual = double_patch(lifted).transformer.lift.enter(repeated(image_BCHW, 16), sigma_B)
    torch.testing.assert_close(actual.sigma_B, expected.sigma_B)
    torch.testing.assert_close(actual.tokens_Bdhw, expected.tokens_Bdhw, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_trunk_predicts_the_old_tokens_of_the_mean_image(lifted):
    """Through the whole model, as converted: input projection, blocks, clock and final layer."""
    doubled, family = double_patch(lifted), family_of(lifted.transformer)
    conditioning = family.collate(lifted.transformer, family.encode(lifted, PROMPTS), GRID)
    image_BCHW, noise_BCHW = noise(2, 3, 64, 96), noise(2, 3, 64, 96, seed=1)
    mean_BCHW, white_BCHW = mean_of_sub_patches(image_BCHW, 16), 2 * mean_of_sub_patches(noise_BCHW, 16)
    old_B, new_B = OLD_SIGMAS[1:3], NEW_SIGMAS[1:3]
    expected_Bdhw = predict_tokens(lifted.transformer, add_noise(mean_BCHW, white_BCHW, old_B), old_B, conditioning)
    actual_Bdhw = predict_tokens(doubled.transformer, add_noise(image_BCHW, noise_BCHW, new_B), new_B, conditioning)
    torch.testing.assert_close(actual_Bdhw, expected_Bdhw, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_decode_repeats_the_old_patch(lifted):
    old, new = (pipe.transformer.lift for pipe in (lifted, double_patch(lifted)))
    tokens_Bdhw, unused = noise(2, 16, 2, 3), torch.zeros(2)
    expected_BCHW = repeated(old.leave(unused, unused, tokens_Bdhw), 16)
    torch.testing.assert_close(new.leave(unused, unused, tokens_Bdhw), expected_BCHW)


@torch.no_grad()
def test_stem_estimates_the_mean_misfit(lifted):
    torch.nn.init.normal_(lifted.transformer.lift.stem.weight)
    noisy_BCHW, sigma_B = noise(2, 3, 64, 96), torch.tensor([0.3, 0.8])
    old, new = (pipe.transformer.lift_in(noisy_BCHW, sigma_B) for pipe in (lifted, double_patch(lifted)))
    assert new.correction_Bdhw.std() > 0.01
    torch.testing.assert_close(new.correction_Bdhw, functional.avg_pool2d(old.correction_Bdhw, 2))


def test_trunk_runs_through_the_same_clocks_in_sampling(lifted):
    clocks = []
    for pipe in (lifted, double_patch(lifted)):
        pipe.scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.4, 0.1])
        sigma_B = pipe.scheduler.sigmas
        clocks.append(pipe.transformer.lift.enter(noise(5, 3, 32, 32), sigma_B).sigma_B)
    assert len(set(clocks[0].tolist())) == 5
    torch.testing.assert_close(*clocks)


# -- pipelines and folders


def test_saved_rung_loads_and_samples_with_the_stock_pipeline(either, tmp_path):
    either.save_pretrained(tmp_path / "old")
    report = climb(tmp_path / "old", tmp_path / "new")
    expected = sampled(double_patch(either))
    assert expected.shape == (2, 64, 128, 3)
    assert expected.std() > 0.01
    for loaded in (load_pipeline(report.folder), DiffusionPipeline.from_pretrained(report.folder)):
        # Not bit for bit: memory-mapped weights lie at other addresses, where CPU kernels sum in another order.
        np.testing.assert_allclose(sampled(loaded), expected, atol=1e-5, rtol=0)
    assert (report.patch_size, report.noise_shift) == (
        32,
        pytest.approx(2 * family_of(either.transformer).shift(either.scheduler, 4096)),
    )
    # The old pipeline is as it was.
    assert either.transformer.config["pixel_patch_size"] == 16
    np.testing.assert_allclose(sampled(load_pipeline(tmp_path / "old")), sampled(either), atol=1e-5, rtol=0)


def test_two_rungs(lifted, tmp_path):
    lifted.save_pretrained(tmp_path / "16")
    climb(tmp_path / "16", tmp_path / "32")
    assert climb(tmp_path / "32", tmp_path / "64").patch_size == 64
    pipe = load_pipeline(tmp_path / "64")
    model, old = pipe.transformer, lifted.transformer
    assert (model.config["pixel_patch_size"], model.factor, pipe.vae.config["factor"]) == (64, 32, 32)
    assert model.lift.scale == pytest.approx(4 * old.lift.scale)
    torch.testing.assert_close(model.lift.offset_d, 4 * old.lift.offset_d)
    image_BCHW = noise(1, 3, 128, 64)
    old_BwHW, bias_w11 = projected(lifted, image_BCHW)
    expected_BwHW = 4 * functional.avg_pool2d(old_BwHW - bias_w11, 4) + bias_w11  # sixteen sub-patches, a quarter each
    torch.testing.assert_close(projected(pipe, image_BCHW)[0], expected_BwHW, atol=1e-4, rtol=1e-4)
    assert sampled(pipe).shape == (2, 64, 128, 3)


def test_8k_from_a_4k_model_without_training(tmp_path):
    """Patch 64 to 128: the same token grid, four times the pixels, and the trunk of the 4K model sees the same."""
    pipe = tiny_pixel_pipeline("z_image", patch_size=64, head=(2, 2, 2, 4, 4, 4), noise_shift=4.0)
    pipe.save_pretrained(tmp_path / "4k")
    ladder = ["ladder", str(tmp_path / "4k"), str(tmp_path / "8k"), "--json"]
    result = CliRunner().invoke(app, ladder, catch_exceptions=False)
    assert json.loads(result.stdout) == {"folder": str(tmp_path / "8k"), "patch_size": 128, "noise_shift": 8.0}
    larger = load_pipeline(tmp_path / "8k")
    assert larger.transformer.head.out_conv.weight.equal(pipe.transformer.head.out_conv.weight)
    small_BCHW = noise(1, 3, 128, 192)
    old_BwHW, bias_w11 = projected(pipe, small_BCHW)
    new_BwHW, _ = projected(larger, repeated(small_BCHW, 64))
    torch.testing.assert_close(new_BwHW, 2 * (old_BwHW - bias_w11) + bias_w11, atol=1e-4, rtol=1e-4)
    pictures = sampled(larger, height=256, width=384)
    assert pictures.shape == (2, 256, 384, 3)
    assert np.isfinite(pictures).all()


def test_same_call_again_returns_at_once_and_another_model_is_refused(plain, tmp_path):
    plain.save_pretrained(tmp_path / "old")
    first = climb(tmp_path / "old", tmp_path / "new")
    times = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = climb(tmp_path / "old", tmp_path / "new")
    assert (first.already_there, again.already_there) == (False, True)
    assert (again.patch_size, again.noise_shift) == (first.patch_size, first.noise_shift)
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == times
    # Another shift is another model, though its weights are the same.
    plain.scheduler = family_of(plain.transformer).with_shift(plain.scheduler, 1.5)
    plain.save_pretrained(tmp_path / "old")
    with pytest.raises(OutputFolderError, match="other model_fingerprint"):
        climb(tmp_path / "old", tmp_path / "new")
    with pytest.raises(OutputFolderError, match="other files"):
        climb(tmp_path / "old", tmp_path / "old")


# -- what cannot be doubled


@pytest.mark.parametrize("name", EXAMPLES)
def test_latent_pipeline(name, tmp_path):
    source = tiny_pipeline(name)
    with pytest.raises(SourceError, match="this is none") as caught:
        double_patch(source)
    assert caught.value.found == type(source.transformer).__name__
    source.save_pretrained(tmp_path / "source")
    for model, problem in ((tmp_path / "source", "this is none"), (tmp_path / "source" / "vae", "no diffusers")):
        with pytest.raises(SourceError, match=problem):
            climb(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_wiener_filter(name):
    pipe = tiny_pixel_pipeline(name, lift=tiny_lift(), lift_wiener=True)
    with pytest.raises(SourceError, match="Wiener"):
        double_patch(pipe)


def test_a_scheduler_that_shifts_with_the_image_keeps_twice_its_shift_on_a_quarter_of_the_tokens(plain):
    plain.scheduler = type(plain.scheduler).from_config(plain.scheduler.config, use_dynamic_shifting=True)
    doubled, family = double_patch(plain), family_of(plain.transformer)
    for num_tokens in (256, 4096):
        expected = 2 * family.shift(plain.scheduler, num_tokens)
        assert family.shift(doubled.scheduler, num_tokens // 4) == pytest.approx(expected)


def test_scheduler_without_a_shift(plain):
    plain.scheduler = DDPMScheduler()
    with pytest.raises(SourceError, match="no noise shift"):
        double_patch(plain)
