"""The lift against the theory: white noise stays white, and for a linear VAE the source itself comes out."""

import pytest
import torch
from tests.tiny import (
    FAMILIES,
    PROMPTS,
    full_prompts,
    noise,
    patch_px,
    tiny_pipeline,
    tiny_pixel_pipeline,
    tiny_source,
    token_dim_of,
    whole_grid,
)
from torch.nn import functional

from latent2pixel.convert.initialise import LiftStatistics
from latent2pixel.families import load_family
from latent2pixel.flow import add_noise, velocity_from_clean
from latent2pixel.model.lift import Lift, LiftFit
from latent2pixel.model.predict import predict_velocity

PATCH, TOKEN_DIM, SCALE = 16, 16, 2.5
SIGMAS = torch.tensor([0.05, 0.5, 0.97])
LIFT_GRID = (2, 3)
FLOW_FAMILIES = [name for name in FAMILIES if load_family(name).objective == "flow"]


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(noise(rows, columns).double())[0].float()


def linear_world(
    patch: int = PATCH, token_dim: int = TOKEN_DIM, grid: tuple[int, int] = LIFT_GRID
) -> tuple[torch.Tensor, torch.Tensor, LiftFit]:
    """Return latents, the images of a linear orthonormal VAE with an offset, and their fit."""
    latents_Bdhw = noise(600, token_dim, *grid, seed=1)
    basis_Dd, mean_D = orthonormal(3 * patch**2, token_dim), 0.3 * noise(3 * patch**2, seed=2)
    patches_BDhw = SCALE * torch.einsum("bdhw,Dd->bDhw", latents_Bdhw, basis_Dd) + mean_D.view(-1, 1, 1)
    statistics = LiftStatistics(3 * patch**2, token_dim)
    for part in range(0, 600, 50):
        statistics.add(
            patches_BDhw[part : part + 50].movedim(1, -1).flatten(0, 2),
            latents_Bdhw[part : part + 50].movedim(1, -1).flatten(0, 2),
        )
    return latents_Bdhw, functional.pixel_shuffle(patches_BDhw, patch), statistics.fit()


def test_fit_finds_a_linear_vae():
    _, _, fit = linear_world()
    assert fit.scale == pytest.approx(SCALE, rel=1e-4)
    assert fit.r2_in == pytest.approx(1, abs=1e-6)
    assert fit.r2_out == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(fit.basis_Dd.T @ fit.basis_Dd, torch.eye(TOKEN_DIM), atol=1e-5, rtol=0)


def test_lifted_noisy_image_is_the_noisy_latent():
    latents_Bdhw, images_BCHW, fit = linear_world()
    lift = Lift(patch=PATCH, token_dim=TOKEN_DIM, scale=fit.scale, stem_channels=8)
    lift.load_fit(fit)
    for sigma in SIGMAS:
        sigma_B = sigma.expand(len(images_BCHW))
        noise_BCHW = noise(*images_BCHW.shape, seed=3)
        lifted = lift.enter(add_noise(images_BCHW, noise_BCHW, sigma_B), sigma_B)
        white_Bdhw = torch.einsum("bDhw,Dd->bdhw", functional.pixel_unshuffle(noise_BCHW, PATCH), fit.basis_Dd)
        expected = add_noise(latents_Bdhw, white_Bdhw, lifted.sigma_B)
        torch.testing.assert_close(lifted.tokens_Bdhw, expected, atol=1e-4, rtol=0)
        covariance = white_Bdhw.movedim(1, -1).flatten(0, 2).T.cov()
        # 3600 samples: an entry of the covariance has the error 1 / sqrt(3600) = 0.017, one on the diagonal 0.024
        torch.testing.assert_close(covariance, torch.eye(TOKEN_DIM), atol=0.1, rtol=0)


@pytest.mark.parametrize("name", FLOW_FAMILIES)
@torch.no_grad()
def test_with_a_linear_vae_the_untrained_model_is_the_source(name):
    patch, grid = patch_px(name), whole_grid(name, LIFT_GRID)
    _, images_BCHW, fit = linear_world(patch, token_dim_of(name), grid)
    family, source = load_family(name), tiny_pipeline(name)
    conditioning = family.collate(source.transformer, family.encode(source, full_prompts(name)), grid)
    pipe = tiny_pixel_pipeline(name, lift=fit)
    num_tokens = getattr(tiny_source(name), "SHIFT_TOKENS", 6)
    expected_shift = family.shift(source.scheduler, num_tokens) * fit.scale
    assert family.shift(pipe.scheduler, num_tokens) == pytest.approx(expected_shift)
    for sigma in SIGMAS:
        sigma_B = sigma.expand(2)
        noisy_BCHW = add_noise(images_BCHW[:2], noise(2, *images_BCHW.shape[1:], seed=4), sigma_B)
        lifted = pipe.transformer.lift.enter(noisy_BCHW, sigma_B)
        # tokens back to native latents: any sample with these tokens serves
        native = family.sample(family.untokens(lifted.tokens_Bdhw), conditioning)
        call = {
            family.sample_argument: native,
            family.timestep_argument: family.told(lifted.sigma_B, grid[0] * grid[1]),
        }
        output = source.transformer(**call, **conditioning).sample
        map_BZHW = family.map_of({**conditioning, family.sample_argument: output})
        velocity_Bdhw = family.sign * family.tokens(map_BZHW)
        clean_Bdhw = lifted.tokens_Bdhw - lifted.sigma_B.view(-1, 1, 1, 1) * velocity_Bdhw
        decoded_BDhw = SCALE * torch.einsum("bdhw,Dd->bDhw", clean_Bdhw, fit.basis_Dd)
        mean_D11 = fit.decode_bias_D.view(-1, 1, 1)
        expected = velocity_from_clean(noisy_BCHW, functional.pixel_shuffle(decoded_BDhw + mean_D11, patch), sigma_B)
        actual = predict_velocity(pipe.transformer, noisy_BCHW, sigma_B, conditioning)
        torch.testing.assert_close(actual, expected, atol=2e-3, rtol=1e-4)  # divided by sigma = 0.05


@pytest.mark.parametrize("name", FLOW_FAMILIES)
@torch.no_grad()
def test_a_bfloat16_lift_runs_and_agrees(name):
    """Failed once: float32 tokens met a bfloat16 decode."""
    patch, grid = patch_px(name), whole_grid(name, LIFT_GRID)
    _, images_BCHW, fit = linear_world(patch, token_dim_of(name), grid)
    family, source = load_family(name), tiny_pipeline(name)
    encoded, sigma_B = family.encode(source, PROMPTS), torch.tensor([0.5, 0.9])
    noisy_BCHW = add_noise(images_BCHW[:2], noise(2, *images_BCHW.shape[1:], seed=4), sigma_B)
    model = tiny_pixel_pipeline(name, lift=fit).transformer
    velocities = []
    for dtype in (torch.float32, torch.bfloat16):
        conditioning = family.collate(cast(model, dtype), encoded, grid)
        velocities.append(predict_velocity(model, noisy_BCHW, sigma_B, conditioning))
    exact, rounded = velocities
    assert rounded.dtype == torch.float32
    # bfloat16 keeps 8 bits, over four blocks
    assert (rounded - exact).square().mean() < 0.01 * exact.square().mean()


def cast(model, dtype):
    """Cast a model as diffusers loads it: some sources keep parts in float32."""
    kept = model._keep_in_fp32_modules or ()
    if not kept:
        return model.to(dtype)
    for name, parameter in model.named_parameters():
        if not any(part in name for part in kept):
            parameter.data = parameter.data.to(dtype)
    return model


def test_wiener_gains_match_a_least_squares_fit():
    """In one patch of pure residual the estimate is the regression of the image on the noisy image."""
    patch, num = 2, 200_000
    variance_D = torch.linspace(0.1, 2.0, 12)
    basis_DD = orthonormal(12, 12)
    clean_ND = (noise(num, 12) * variance_D.sqrt()) @ basis_DD.T
    sigma = torch.tensor([0.4])
    noisy_ND = 0.6 * clean_ND + 0.4 * noise(num, 12, seed=1)
    lift = Lift(patch=patch, token_dim=1, scale=1.0, stem_channels=8, wiener=True)
    with torch.no_grad():
        lift.decode.weight.zero_(), lift.decode.bias.zero_()
        lift.residual_basis_DD.copy_(basis_DD), lift.residual_variance_D.copy_(variance_D)
        noisy_BCHW = functional.pixel_shuffle(noisy_ND.T.view(1, 12, 1, num), patch)
        estimate = lift.leave(noisy_BCHW, sigma, torch.zeros(1, 1, 1, num))
    estimate_ND = functional.pixel_unshuffle(estimate, patch).view(12, num).T
    best = torch.linalg.lstsq(noisy_ND, clean_ND).solution
    torch.testing.assert_close(estimate_ND, noisy_ND @ best, atol=0.05, rtol=0)  # 200,000 samples


def test_a_perfect_stem_gives_the_noisy_latents_of_any_vae():
    latents_Bdhw, images_BCHW, fit = linear_world()
    lift = Lift(patch=PATCH, token_dim=TOKEN_DIM, scale=fit.scale, stem_channels=8)
    lift.load_fit(fit)
    curved_Bdhw = latents_Bdhw + 0.5 * latents_Bdhw.roll(1, dims=1).square()
    misfit_Bdhw = lift.misfit_of(images_BCHW, curved_Bdhw)
    torch.testing.assert_close(misfit_Bdhw, curved_Bdhw - latents_Bdhw, atol=1e-4, rtol=0)
    for sigma in SIGMAS:
        sigma_B, noise_BCHW = sigma.expand(len(images_BCHW)), noise(*images_BCHW.shape, seed=3)
        noisy_BCHW = add_noise(images_BCHW, noise_BCHW, sigma_B)
        lifted = lift.enter(noisy_BCHW, sigma_B, correction_Bdhw=misfit_Bdhw)
        white_Bdhw = torch.einsum("bDhw,Dd->bdhw", functional.pixel_unshuffle(noise_BCHW, PATCH), fit.basis_Dd)
        expected = add_noise(curved_Bdhw, white_Bdhw, lifted.sigma_B)
        torch.testing.assert_close(lifted.tokens_Bdhw, expected, atol=1e-4, rtol=0)
        patches_BDhw = functional.pixel_unshuffle(lifted.image_BCHW, PATCH)
        seen_Bdhw = torch.einsum("bDhw,Dd->bdhw", patches_BDhw, fit.basis_Dd)
        torch.testing.assert_close(seen_Bdhw, expected, atol=1e-4, rtol=0)


def test_calibrated_tokens_have_the_statistics_of_noisy_latents():
    """Latents that no linear map reaches: means, variances and distribution of the noise, level by level."""
    latents_Bdhw, images_BCHW, fit = linear_world()
    lift = Lift(patch=PATCH, token_dim=TOKEN_DIM, scale=fit.scale, stem_channels=8)
    lift.load_fit(fit)
    # Half of the latents' variance, and a mean, are invisible in the pixels.
    true_Bdhw = 0.7 * latents_Bdhw + 0.7 * noise(*latents_Bdhw.shape, seed=8) + 0.4
    projection_Dd = orthonormal(3 * PATCH**2, TOKEN_DIM)
    for level in (2, 10, 18):
        sigma = level / (len(lift.gain_S) - 1)
        sigma_B = torch.full((len(images_BCHW),), sigma)
        noisy_BCHW = add_noise(images_BCHW, noise(*images_BCHW.shape, seed=3), sigma_B)
        plain = lift.enter(noisy_BCHW, sigma_B, told=False)
        lift.calibrate(level, plain.tokens_Bdhw, true_Bdhw, lifted_sigma=plain.sigma_B[0].item())
        lifted = lift.enter(noisy_BCHW, sigma_B)
        clock = lifted.sigma_B[0].item()
        error_Bdhw = lifted.tokens_Bdhw - (1 - clock) * true_Bdhw
        known = error_Bdhw - error_Bdhw.mean((0, 2, 3), keepdim=True)
        assert known.std().item() == pytest.approx(clock, rel=0.01)
        # 57,600 values: a correlation has the error 0.004
        assert (known * true_Bdhw).mean().abs() < 0.03
        sampled = add_noise(true_Bdhw, noise(*true_Bdhw.shape, seed=9), torch.full_like(sigma_B, clock))
        # Published: a random projection of the pixels, on the pixels' own clock.
        patches_BDhw = functional.pixel_unshuffle(noisy_BCHW, PATCH)
        random_Bdhw = torch.einsum("bDhw,Dd->bdhw", patches_BDhw, projection_Dd)
        centred = (lifted.tokens_Bdhw - lifted.tokens_Bdhw.mean(), sampled - sampled.mean())
        assert centred[0].std().item() == pytest.approx(centred[1].std().item(), rel=0.02)
        assert kolmogorov_smirnov(*centred) < 0.02
        assert kolmogorov_smirnov(*centred) < kolmogorov_smirnov(random_Bdhw, sampled) / 3


def kolmogorov_smirnov(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference between two cumulative distributions."""
    places = torch.linspace(-4, 4, 400)
    shares = [torch.searchsorted(values.flatten().sort().values, places) / values.numel() for values in (one, other)]
    return (shares[0] - shares[1]).abs().max().item()


@torch.no_grad()
def test_what_a_token_lacks_of_the_latents_is_told_as_noise():
    """Signal and noise keep weights that add up to 1: gain times the signal, the noise's variance and the misfit's."""
    _, images_BCHW, fit = linear_world()
    lift = Lift(patch=PATCH, token_dim=TOKEN_DIM, scale=fit.scale, stem_channels=8)
    lift.load_fit(fit)
    sigma_B = torch.tensor([0.0, 0.325, 1.0])
    plain = lift.enter(images_BCHW[:3], sigma_B)
    lift.misfit_S.copy_(torch.linspace(0.2, 0.6, len(lift.misfit_S)))
    lift.gain_S.copy_(torch.linspace(0.9, 0.5, len(lift.gain_S)))
    told = lift.enter(images_BCHW[:3], sigma_B)
    misfit_B, gain_B = torch.tensor([0.2, 0.33, 0.6]), torch.tensor([0.9, 0.77, 0.5])
    noise_B = (plain.sigma_B**2 + (1 - plain.sigma_B) ** 2 * misfit_B).sqrt()
    signal_B = gain_B * (1 - plain.sigma_B)
    torch.testing.assert_close(told.sigma_B / (1 - told.sigma_B), noise_B / signal_B)
    total_B111 = (signal_B + noise_B).view(-1, 1, 1, 1)
    torch.testing.assert_close(told.tokens_Bdhw, plain.tokens_Bdhw / total_B111, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_true_latents_enter_as_the_noisy_ones_of_a_linear_vae():
    latents_Bdhw, images_BCHW, fit = linear_world()
    lift = Lift(patch=PATCH, token_dim=TOKEN_DIM, scale=fit.scale, stem_channels=8)
    lift.load_fit(fit)
    noise_BCHW = noise(*images_BCHW[:3].shape, seed=3)
    expected = lift.enter(add_noise(images_BCHW[:3], noise_BCHW, SIGMAS), SIGMAS)
    actual = lift.noisy_latents(latents_Bdhw[:3], noise_BCHW, SIGMAS)
    torch.testing.assert_close(actual.tokens_Bdhw, expected.tokens_Bdhw, atol=1e-4, rtol=0)
    torch.testing.assert_close(actual.sigma_B, expected.sigma_B)
    seen_Bdhw = torch.einsum("bDhw,Dd->bdhw", functional.pixel_unshuffle(actual.image_BCHW, PATCH), fit.basis_Dd)
    torch.testing.assert_close(seen_Bdhw, expected.tokens_Bdhw, atol=1e-4, rtol=0)
