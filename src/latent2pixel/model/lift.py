"""The lift: closed-form parts through which a source's trunk sees pixels as the latents that it knows.

Shape letters: B batch, C image channels, H and W image size in pixels, h and w the token grid, D values of a pixel
patch (C * patch**2, in the order of ``pixel_unshuffle``), d values of a latent token.

Source:
    Derived for this project: A is orthonormal, so ``A^T noise`` is white again, and with ``A^T x ~ s z + c`` a noisy
    image at sigma is, after scaling, a noisy latent at ``sigma' = k sigma``.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent2pixel.errors import GeometryError
from latent2pixel.model.tokens import places_in_patch

SMALLEST_VARIANCE = 1e-12
"""Keeps the Wiener gains finite where neither residual nor noise is left."""
SMALLEST_SIGNAL = 1e-3
"""Below this weight of the latents, a regression on them would see noise alone."""
NUM_LEVELS = 21
"""Noise levels, evenly from 0 to 1, at which gain and misfit are tabulated. They change slowly (dev/LOG.md,
2026-11-26)."""


@dataclass(frozen=True, kw_only=True)
class LiftFit:
    """What is fitted on source images, float32, and how well it fits."""

    basis_Dd: Tensor
    """A: orthonormal columns, from pixel patches to latent tokens."""
    scale: float
    """s: size of the lifted image over that of the latents."""
    offset_d: Tensor
    """c: mean of ``A^T x - s z``."""
    decode_weight_Dd: Tensor
    """B: from latent tokens to pixel patches."""
    decode_bias_D: Tensor
    """Bias of the decode."""
    residual_DD: Tensor | None
    """Covariance of ``x - B z``; None after ``spread``, which leaves it open."""
    r2_in: float
    """Share of the latents' variance that ``A^T x / s`` explains."""
    r2_out: float
    """Share of the pixels' variance that ``B z`` explains."""
    r2_least_squares: float
    """Share of the latents' variance that the best linear map of a patch explains, on the patches of the fit: the limit
    of ``r2_in``."""
    least_squares_noise_gain: float
    """By how much an unconstrained linear fit of the latents would amplify white noise; A's gain is 1 / s**2."""
    fitted_noise_gain: float
    """The same of the linear map whose nearest orthonormal matrix is A; 1 / s**2 where A itself was sought."""
    residual_variance_C: Tensor
    """Variance of ``x - B z`` in each colour channel, mean over the places in a patch."""
    residual_share_C: Tensor
    """The same as a share of the channel's own variance."""
    num_patches: int
    """Patches behind the fit."""
    projection_std: float | None = None
    """Standard deviation of a random input projection of the trunk; None: the source's behind A."""

    def spread(self, factor: int) -> "LiftFit":
        """Return the fit for patches that are larger by a factor on each axis, whose average it sees.

        The average of ``factor**2`` pixels times the factor is their product with a unit vector. So A stays
        orthonormal, white noise stays white, and s grows by the factor. The figures stay those of averaged images.
        """
        if factor == 1:
            return self
        patch = math.isqrt(len(self.decode_bias_D) // len(self.residual_variance_C))
        places_BCHW = places_in_patch(patch, channels=len(self.residual_variance_C))
        spread_BCHW = places_BCHW.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        place_D = functional.pixel_unshuffle(spread_BCHW, factor * patch).flatten()
        return replace(
            self,
            basis_Dd=self.basis_Dd[place_D] / factor,
            scale=factor * self.scale,
            offset_d=factor * self.offset_d,
            decode_weight_Dd=self.decode_weight_Dd[place_D],
            decode_bias_D=self.decode_bias_D[place_D],
            residual_DD=None,
        )

    def report(self) -> dict[str, Any]:
        """Return all figures of the fit as plain values, JSON-serialisable."""
        channels = zip(self.residual_variance_C.tolist(), self.residual_share_C.tolist(), strict=True)
        return {
            **self.figures(),
            "residual_by_channel": [{"variance": variance, "share": share} for variance, share in channels],
        }

    def figures(self) -> dict[str, float | int]:
        """Return the figures of the fit that are one number each."""
        return {
            "scale": self.scale,
            "noise_gain": 1 / self.scale**2,
            # k sigma has the odds sigma / (1 - sigma) / s, so the pixels' shift must be s times the latents'.
            "implied_noise_shift": self.scale,
            "r2_in": self.r2_in,
            "r2_out": self.r2_out,
            "r2_least_squares": self.r2_least_squares,
            "least_squares_noise_gain": self.least_squares_noise_gain,
            "fitted_noise_gain": self.fitted_noise_gain,
            "num_patches": self.num_patches,
        }


@dataclass(frozen=True, kw_only=True)
class LiftedInput:
    """A noisy image as the trunk sees it."""

    image_BCHW: Tensor
    """Input of the trunk's patch projection."""
    tokens_Bdhw: Tensor
    """The same as noisy latent tokens."""
    sigma_B: Tensor
    """sigma', their noise level: the trunk's clock."""


@dataclass(frozen=True, kw_only=True)
class LiftedEnds:
    """What the head and the stem make of a noisy image before the trunk runs."""

    seen_BCHW: Tensor
    """The image as the head reads it."""
    skips: list[Tensor] | None
    """Features of the head's down path, finest first; None with a head in tiles, which makes each tile's again."""
    coarse_BChw: Tensor
    """Its coarsest features."""
    correction_Bdhw: Tensor
    """The stem's estimate of what the lift misses of the latent tokens, float32."""


class Lift(nn.Module):
    """Fixed lift, trainable stem and decode, and if asked for a Wiener filter of what the decode leaves.

    Args:
        patch: Pixels per token and axis.
        token_dim: d, values of a latent token.
        scale: s of the fit.
        stem_channels: Channels of the detailer head's coarsest features, which the stem reads.
        wiener: Add the Wiener estimate of the decode's residual. It lowers the error of an untrained head; a trained
            one scores better without (dev/LOG.md, 2026-11-25).
        channels: Image channels.
    """

    basis_Dd: Tensor
    offset_d: Tensor
    gain_S: Tensor
    misfit_S: Tensor
    token_mean_d: Tensor
    residual_basis_DD: Tensor
    residual_variance_D: Tensor

    def __init__(
        self, *, patch: int, token_dim: int, scale: float, stem_channels: int, wiener: bool = False, channels: int = 3
    ) -> None:
        super().__init__()
        self.patch, self.scale, self.wiener = patch, scale, wiener
        patch_dim = channels * patch**2
        self.decode = nn.Linear(token_dim, patch_dim)
        self.stem = nn.Conv2d(stem_channels, token_dim, 1)
        self.register_buffer("basis_Dd", torch.zeros(patch_dim, token_dim))
        self.register_buffer("offset_d", torch.zeros(token_dim))
        self.register_buffer("gain_S", torch.ones(NUM_LEVELS))
        self.register_buffer("misfit_S", torch.zeros(NUM_LEVELS))
        self.register_buffer("token_mean_d", torch.zeros(token_dim))
        if wiener:
            self.register_buffer("residual_basis_DD", torch.zeros(patch_dim, patch_dim))
            self.register_buffer("residual_variance_D", torch.zeros(patch_dim))

    @torch.no_grad()
    def load_fit(self, fit: LiftFit) -> None:
        """Take over the matrices of a fit.

        Raises:
            GeometryError: The Wiener filter is asked for, and the fit has none of these patches.
        """
        self.basis_Dd.copy_(fit.basis_Dd)
        self.offset_d.copy_(fit.offset_d)
        self.decode.weight.copy_(fit.decode_weight_Dd)
        self.decode.bias.copy_(fit.decode_bias_D)
        if self.wiener:
            if fit.residual_DD is None:
                raise GeometryError(
                    "There is no Wiener filter for patches larger than the source's",
                    found=f"wiener=True, patches of {self.patch} px",
                    expected="patches of the size of the source's latent tokens, or no filter",
                    fix="Leave wiener out.",
                )
            variance_D, vectors_DD = torch.linalg.eigh(fit.residual_DD.double())
            self.residual_basis_DD.copy_(vectors_DD)
            self.residual_variance_D.copy_(variance_D.clamp(min=0))
        self.gain_S.fill_(1.0)
        self.misfit_S.zero_()
        self.token_mean_d.zero_()
        for parameter in self.stem.parameters():
            nn.init.zeros_(parameter)

    def seen_by_head(self, noisy_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Return the noisy image at about unit variance and a plane of sigma, (B, C + 1, H, W)."""
        sigma_B111 = sigma_B.float().view(-1, 1, 1, 1)
        scaled_BCHW = noisy_BCHW / ((1 - sigma_B111) ** 2 + sigma_B111**2).sqrt()
        return torch.cat([scaled_BCHW, sigma_B111.expand(-1, 1, *noisy_BCHW.shape[-2:])], dim=1)

    def misfit_of(self, clean_BCHW: Tensor, tokens_Bdhw: Tensor) -> Tensor:
        """Return the stem's target, (B, d, h, w): what the lift of a clean image misses of its latent tokens."""
        return tokens_Bdhw - self.enter(clean_BCHW, clean_BCHW.new_zeros(len(clean_BCHW)), told=False).tokens_Bdhw

    def enter(
        self, noisy_BCHW: Tensor, sigma_B: Tensor, *, correction_Bdhw: Tensor | None = None, told: bool = True
    ) -> LiftedInput:
        """Turn a noisy image into what the trunk knows: latent tokens at a noise level of their own.

        ``A^T x_sigma - (1 - sigma) c = (1 - sigma) s z + sigma noise``; times ``k = 1 / (s + (1 - s) sigma)`` the two
        weights add up to 1, with ``sigma' = k sigma`` on the noise. Real latents are no linear image of the pixels:
        ``A^T x = s (z - misfit) + c``. The stem's estimate of the misfit is added at the weight of ``z``. What is still
        missed is no independent noise: a cautious estimate shrinks the latents. So they count as ``gain * z`` plus
        noise of variance ``misfit_S`` that knows nothing of ``z`` (``calibrate``), scaled and told to the trunk's clock
        such that signal and noise have weights that add up to 1 again.

        Args:
            noisy_BCHW: Image at noise level sigma, float32.
            sigma_B: Noise level in [0, 1].
            correction_Bdhw: The misfit as the stem estimates it; None leaves it in.
            told: Count gain and misfit.
        """
        sigma_B111 = sigma_B.float().view(-1, 1, 1, 1)
        k_B111 = self._input_scale(sigma_B111)
        lifted_sigma_B111 = k_B111 * sigma_B111
        basis_Dd, offset_d = self.basis_Dd.float(), self.offset_d.float()
        patches_BDhw = functional.pixel_unshuffle(noisy_BCHW, self.patch)
        mean_D11 = (basis_Dd @ offset_d).view(-1, 1, 1)
        patches_BDhw = k_B111 * (patches_BDhw - (1 - sigma_B111) * mean_D11)
        signal_B111, noise_B111 = 1 - lifted_sigma_B111, lifted_sigma_B111
        if correction_Bdhw is not None:
            # A is orthonormal, so A^T (A correction) is the correction.
            patches_BDhw = patches_BDhw + signal_B111 * self._embed(correction_Bdhw)
        if told:
            gain_B111, misfit_B111 = (
                _at(table_S.float(), sigma_B).view(-1, 1, 1, 1) for table_S in (self.gain_S, self.misfit_S)
            )
            # Only what varies is shrunk, the mean is not.
            unshrunk_1d11 = self.token_mean_d.float().view(1, -1, 1, 1)
            patches_BDhw = patches_BDhw - signal_B111 * (1 - gain_B111) * self._embed(unshrunk_1d11)
            noise_B111 = (noise_B111**2 + signal_B111**2 * misfit_B111).sqrt()
            signal_B111 = signal_B111 * gain_B111
        total_B111 = signal_B111 + noise_B111
        patches_BDhw = patches_BDhw / total_B111
        return LiftedInput(
            image_BCHW=functional.pixel_shuffle(patches_BDhw, self.patch),
            tokens_Bdhw=self._project(patches_BDhw),
            sigma_B=(noise_B111 / total_B111).flatten(),
        )

    def noisy_latents(self, tokens_Bdhw: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> LiftedInput:
        """Return true latents as the trunk would see them, if the lift of a noisy image missed nothing of them.

        Args:
            tokens_Bdhw: Clean latent tokens, float32.
            noise_BCHW: Noise of the pixels, standard normal.
            sigma_B: The pixels' noise level in [0, 1]; the latents' is ``k sigma``.
        """
        sigma_B111 = sigma_B.float().view(-1, 1, 1, 1)
        lifted_sigma_B111 = self._input_scale(sigma_B111) * sigma_B111
        white_Bdhw = self._project(functional.pixel_unshuffle(noise_BCHW, self.patch))
        noisy_Bdhw = torch.lerp(tokens_Bdhw, white_Bdhw, lifted_sigma_B111)
        return LiftedInput(
            image_BCHW=functional.pixel_shuffle(self._embed(noisy_Bdhw), self.patch),
            tokens_Bdhw=noisy_Bdhw,
            sigma_B=lifted_sigma_B111.flatten(),
        )

    def _project(self, patches_BDhw: Tensor) -> Tensor:
        """Return ``A^T patches``, in float32 under autocast too."""
        with torch.autocast(patches_BDhw.device.type, enabled=False):
            return torch.einsum("bDhw,Dd->bdhw", patches_BDhw.float(), self.basis_Dd.float())

    def _embed(self, tokens_Bdhw: Tensor) -> Tensor:
        """Return ``A tokens``, in float32 under autocast too."""
        with torch.autocast(tokens_Bdhw.device.type, enabled=False):
            return torch.einsum("bdhw,Dd->bDhw", tokens_Bdhw.float(), self.basis_Dd.float())

    def _input_scale(self, sigma: Tensor) -> Tensor:
        """Return k, with which signal and noise of the lifted image have weights that add up to 1."""
        return 1 / (self.scale + (1 - self.scale) * sigma)

    @torch.no_grad()
    def calibrate(self, level: int, seen_Bdhw: Tensor, tokens_Bdhw: Tensor, *, lifted_sigma: float) -> None:
        """Set gain and misfit of a noise level by regression of lifted tokens on the true ones.

        Args:
            level: Place in the tables.
            seen_Bdhw: The tokens that ``enter`` made of noisy images of that level with ``told=False``.
            tokens_Bdhw: Their latent tokens, best of images on which the stem was not trained.
            lifted_sigma: sigma' of that level, as ``enter`` returned it.
        """
        signal = 1 - lifted_sigma
        if signal < SMALLEST_SIGNAL:  # only noise is left to look at: as one level below
            self.gain_S[level], self.misfit_S[level] = self.gain_S[level - 1], self.misfit_S[level - 1]
            return
        over = (0, 2, 3)
        centred_Bdhw = tokens_Bdhw - tokens_Bdhw.mean(over, keepdim=True)
        seen_Bdhw = (seen_Bdhw - seen_Bdhw.mean(over, keepdim=True)) / signal
        gain = (seen_Bdhw * centred_Bdhw).mean() / centred_Bdhw.square().mean()
        misfit = (seen_Bdhw - gain * centred_Bdhw).square().mean() - (lifted_sigma / signal) ** 2
        self.gain_S[level], self.misfit_S[level] = gain, misfit.clamp(min=0)
        self.token_mean_d.copy_(tokens_Bdhw.mean(over))

    def leave(self, noisy_BCHW: Tensor, sigma_B: Tensor, tokens_Bdhw: Tensor) -> Tensor:
        """Return the image that clean latent tokens stand for, decoded linearly, shape (B, C, H, W).

        With ``wiener``, what the decode leaves, ``r = x0 - B z``, is estimated from the noisy pixels by the best linear
        filter for its covariance ``Q diag(lambda) Q^T``, patch by patch.

        Args:
            noisy_BCHW: Image at noise level sigma, float32.
            sigma_B: Noise level in [0, 1].
            tokens_Bdhw: Clean latent tokens, as the source predicts them.

        Source:
            Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series" (1949): the estimate of a
            signal of variance lambda in ``(1 - sigma) signal + sigma noise``.
        """
        decoded_BDhw = self.decode(tokens_Bdhw.to(self.decode.weight.dtype).movedim(1, -1)).movedim(-1, 1).float()
        if not self.wiener:
            return functional.pixel_shuffle(decoded_BDhw, self.patch)
        sigma_B111 = sigma_B.float().view(-1, 1, 1, 1)
        variance_D11 = self.residual_variance_D.float().view(-1, 1, 1)
        signal_B111 = 1 - sigma_B111
        gain_BD11 = variance_D11 * signal_B111 / (
            variance_D11 * signal_B111**2 + sigma_B111**2 + SMALLEST_VARIANCE
        )  # fmt: skip
        residual_BDhw = functional.pixel_unshuffle(noisy_BCHW, self.patch) - signal_B111 * decoded_BDhw
        basis_DD = self.residual_basis_DD.float()
        spectrum_BDhw = torch.einsum("bDhw,De->behw", residual_BDhw, basis_DD)
        filtered_BDhw = torch.einsum("behw,De->bDhw", gain_BD11 * spectrum_BDhw, basis_DD)
        return functional.pixel_shuffle(decoded_BDhw + filtered_BDhw, self.patch)


def joined_features(feature_BDhw: Tensor, tokens_Bdhw: Tensor) -> Tensor:
    """Return the trunk's hidden states and the clean latent tokens as a lifted model's head reads them."""
    # Hidden states grow over the blocks; the tokens beside them are of unit variance.
    normed_BDhw = functional.layer_norm(feature_BDhw.movedim(1, -1), feature_BDhw.shape[1:2]).movedim(-1, 1)
    return torch.cat([normed_BDhw.float(), tokens_Bdhw], dim=1)


def _at(table_S: Tensor, sigma_B: Tensor) -> Tensor:
    """Interpolate a table over noise levels linearly."""
    place_B = sigma_B.float() * (NUM_LEVELS - 1)
    below_B = place_B.floor().clamp(max=NUM_LEVELS - 2).long()
    return torch.lerp(table_S[below_B], table_S[below_B + 1], place_B - below_B)
