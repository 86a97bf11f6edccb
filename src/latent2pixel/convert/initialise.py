"""Fits the lift in one pass over source images, in float64.

Shape letters: B batch, C image channels, H and W image size in pixels, h and w the token grid, N patches, D values of a
pixel patch, d values of a latent token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from latent2pixel.convert.config import InputMap
from latent2pixel.convert.images import FitImages
from latent2pixel.errors import DataError, GeometryError, SourceError
from latent2pixel.families import family_of
from latent2pixel.families.base import Family
from latent2pixel.io.images import as_floats
from latent2pixel.model.lift import SMALLEST_VARIANCE, LiftFit
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS

MIN_PATCHES_PER_VALUE = 4
"""Patches for each of a patch's values; with fewer the fit follows chance, and its R^2 says nothing."""
RIDGE = 1e-6
"""Ridge of the linear fits, relative to the mean variance: holds directions that never vary at zero."""
BISECTIONS = 60
"""Halvings of the ridge's logarithm: from any start to the last bits of a float64."""
SMALL_STD = 0.001
"""Of the input projection with ``small_random``, so that the trunk starts nearly blind. Not L2P's: its released weights
started from torch's defaults."""
MIN_R2_IN = 0.25
"""Below this the trunk would see mostly something other than latents. A judgement, not a measured limit: the shipped
miniature reaches 0.31 and still gains (dev/LOG.md, 2026-11-24)."""


@torch.no_grad()
def encode_tokens(pipe: Any, images: FitImages, *, patch_size: int) -> list[Tensor]:
    """Return the latent tokens of every image, one for each patch: (d, h, w), float16 on the CPU.

    Where patches are not of the size of the source's latent tokens, the VAE sees the image resized by area averaging,
    so that both grids are equal. A token takes 2 d bytes: 0.5 MB an image at 1024 px and d = 64.

    Args:
        pipe: Latent source pipeline.
        images: Height and width multiples of the patch.
        patch_size: Pixels per token and axis of the pixel model.

    Raises:
        GeometryError: An image does not divide into whole patches, or is smaller than one.
        SourceError: The VAE has no plain scale and shift.
    """
    family, tokens = family_of(pipe.transformer), []
    for index, image_CHW in enumerate(tqdm(images.images, desc="latents", unit="image")):
        name = f"image {index} of {images.name}"
        batch_Bdhw = latent_tokens(pipe, as_floats(image_CHW)[None], family=family, patch_size=patch_size, name=name)
        tokens.append(batch_Bdhw[0].half().cpu())
    return tokens


@torch.no_grad()
def latent_tokens(
    pipe: Any, images_BCHW: Tensor, *, family: Family, patch_size: int, name: str = "the training images"
) -> Tensor:
    """Return the latent tokens of images in [-1, 1] on the grid of a pixel model's patches, (B, d, h, w).

    Args:
        pipe: Latent source pipeline, of which only the VAE is asked.
        images_BCHW: Height and width multiples of the patch.
        family: The source's.
        patch_size: Pixels per token and axis of the pixel model.
        name: What an error calls the images.

    Raises:
        GeometryError: The images do not divide into whole patches.
        SourceError: The VAE has no plain scale and shift.
    """
    rows, columns = _grid_of(images_BCHW, patch_size, name=name)
    resized_BCHW = functional.interpolate(
        images_BCHW, [size * family.token_px(pipe) for size in (rows, columns)], mode="area"
    )
    return family.tokens(family.latents(pipe, resized_BCHW))


def _grid_of(images_BCHW: Tensor, patch_size: int, *, name: str) -> tuple[int, int]:
    height, width = images_BCHW.shape[-2:]
    if height % patch_size or width % patch_size:
        raise GeometryError(
            "An image for the fit does not divide into whole patches",
            found=f"{height} x {width} px, {name}",
            expected=f"height and width multiples of the patch size {patch_size}",
            fix=f"Choose an image size that is a multiple of {patch_size} px, or a smaller patch.",
        )
    return height // patch_size, width // patch_size


def fit_lift(
    pipe: Any,
    images: FitImages,
    tokens: Sequence[Tensor],
    *,
    patch_size: int,
    input_map: InputMap = "procrustes",
    generator: torch.Generator | None = None,
) -> LiftFit:
    """Fit the lift of a source, one pass over its images.

    Patches larger than the source's latent tokens are fitted as ``encode_tokens`` encodes them: on the images resized
    by area averaging. The fit then takes as many images and seconds as at the source's own patch, whatever the patch.

    Args:
        pipe: Latent source pipeline.
        images: About 1000 images; height and width multiples of the patch.
        tokens: Their latent tokens, as ``encode_tokens`` returns them.
        patch_size: Pixels per token and axis.
        input_map: See ``LiftStatistics.fit``.
        generator: As there.

    Raises:
        DataError: There are too few images.
        GeometryError: A patch holds fewer values than a latent token.
        SourceError: The source's latents are too far from a linear image of its pixels.
    """
    family = family_of(pipe.transformer)
    if family.objective != "flow":
        raise SourceError(
            "The lift is derived for flow-matching sources only",
            found=f"objective {family.objective}",
            expected="objective flow",
            fix="Use the recipe paper for this source.",
        )
    own = family.token_px(pipe)
    factor = patch_size // own if patch_size % own == 0 else 1
    fitted_px = patch_size // factor
    patch_dim, token_dim = IMAGE_CHANNELS * fitted_px**2, family.token_dim(pipe.transformer.config)
    if patch_dim < token_dim:
        raise GeometryError(
            "A patch holds fewer values than a latent token, so noise cannot stay white in it",
            found=f"patch size {fitted_px}: {patch_dim} values, latent token: {token_dim}",
            expected=f"at least {token_dim} values a patch",
            fix=f"Choose the source's own patch, {own} px, or the recipe paper.",
        )
    statistics = LiftStatistics(patch_dim, token_dim)
    for image_CHW, tokens_dhw in zip(images.images, tokens, strict=True):
        averaged_BCHW = functional.avg_pool2d(as_floats(image_CHW)[None], factor)
        patches_BDhw = functional.pixel_unshuffle(averaged_BCHW, fitted_px)
        statistics.add(_flat(patches_BDhw), _flat(tokens_dhw[None]))
    needed = MIN_PATCHES_PER_VALUE * patch_dim
    if statistics.num_patches < needed:
        raise DataError(
            "There are too few images to fit the lift on",
            found=f"{statistics.num_patches} patches of {patch_size} px in {images.name}",
            expected=f"at least {needed} patches; about 1000 images are best",
            fix="Make more with `l2p data synthesize`.",
        )
    return statistics.fit(input_map=input_map, generator=generator).spread(factor)


class LiftStatistics:
    """Sums over patches from which the whole fit follows; memory does not grow with the number of images.

    Args:
        patch_dim: D.
        token_dim: d.
    """

    def __init__(self, patch_dim: int, token_dim: int) -> None:
        self.num_patches = 0
        self.sum_D = torch.zeros(patch_dim, dtype=torch.float64)
        self.sum_d = torch.zeros(token_dim, dtype=torch.float64)
        self.product_DD = torch.zeros(patch_dim, patch_dim, dtype=torch.float64)
        self.product_Dd = torch.zeros(patch_dim, token_dim, dtype=torch.float64)
        self.product_dd = torch.zeros(token_dim, token_dim, dtype=torch.float64)

    def add(self, patches_ND: Tensor, tokens_Nd: Tensor) -> None:
        """Count pixel patches in [-1, 1] and the latent tokens at the same places."""
        pixels, latents = patches_ND.double().cpu(), tokens_Nd.double().cpu()
        self.num_patches += len(pixels)
        self.sum_D += pixels.sum(0)
        self.sum_d += latents.sum(0)
        self.product_DD += pixels.T @ pixels
        self.product_Dd += pixels.T @ latents
        self.product_dd += latents.T @ latents

    def fit(self, *, input_map: InputMap = "procrustes", generator: torch.Generator | None = None) -> LiftFit:
        """Return the lift.

        Args:
            input_map: How A is found; all but the first are there to be compared with it.
                ``"procrustes"``: the orthonormal matrix whose output varies most together with the latents.
                ``"ridge"``: the orthonormal matrix nearest to a ridge regression that amplifies noise as ``A / s`` of
                Procrustes does (or to the least squares, if they amplify it less); nearest, because the lift needs
                white noise to stay white.
                ``"random"``: a random orthonormal matrix.
                ``"small_random"``: the same, with a trunk's input projection of small random weights in place of the
                source's behind A.
            generator: CPU generator of the random matrix; the fits need none.

        Raises:
            SourceError: The latents are too far from a linear image of the pixels; with ``"procrustes"`` only, as a
                comparison is meant to show bad ones too.

        Source:
            Procrustes: Schoenemann 1966, ``U V^T`` of the singular vectors of the cross-covariance.
        """
        moments = self._moments()
        basis_Dd, fitted_noise_gain = _input_map(moments, input_map, generator=generator)
        cov_DD, cov_Dd, cov_dd = moments.cov_DD, moments.cov_Dd, moments.cov_dd
        scale = _scale(moments, basis_Dd)
        # E |A^T x / s - z|^2 over E |z|^2, written with covariances
        missed = 2 * cov_dd.trace() - 2 * (basis_Dd * cov_Dd).sum() / scale
        r2_in = float(1 - missed / cov_dd.trace())
        if input_map == "procrustes" and r2_in < MIN_R2_IN:
            raise _no_fit(r2_in, self.num_patches)
        decode_Dd = torch.linalg.solve(_ridged(cov_dd), cov_Dd.T).T
        residual_DD = cov_DD - decode_Dd @ cov_Dd.T - cov_Dd @ decode_Dd.T + decode_Dd @ cov_dd @ decode_Dd.T
        least_squares_dD = torch.linalg.solve(_ridged(cov_DD), cov_Dd).T
        # The values of a patch are ordered by channel first.
        residual_C, pixels_C = (each.diagonal().view(IMAGE_CHANNELS, -1).mean(1) for each in (residual_DD, cov_DD))
        return LiftFit(
            basis_Dd=basis_Dd.float(),
            scale=scale,
            offset_d=(basis_Dd.T @ moments.mean_D - scale * moments.mean_d).float(),
            decode_weight_Dd=decode_Dd.float(),
            decode_bias_D=(moments.mean_D - decode_Dd @ moments.mean_d).float(),
            residual_DD=((residual_DD + residual_DD.T) / 2).float(),
            r2_in=r2_in,
            r2_out=float(1 - residual_DD.trace() / cov_DD.trace()),
            r2_least_squares=float((least_squares_dD * cov_Dd.T).sum() / cov_dd.trace()),
            least_squares_noise_gain=float(least_squares_dD.square().sum(1).mean()),
            fitted_noise_gain=fitted_noise_gain,
            residual_variance_C=residual_C.clamp(min=0).float(),
            residual_share_C=(residual_C.clamp(min=0) / pixels_C.clamp(min=SMALLEST_VARIANCE)).float(),
            num_patches=self.num_patches,
            projection_std=SMALL_STD if input_map == "small_random" else None,
        )

    def _moments(self) -> "_Moments":
        mean_D, mean_d = self.sum_D / self.num_patches, self.sum_d / self.num_patches
        return _Moments(
            mean_D=mean_D,
            mean_d=mean_d,
            cov_DD=self.product_DD / self.num_patches - torch.outer(mean_D, mean_D),
            cov_Dd=self.product_Dd / self.num_patches - torch.outer(mean_D, mean_d),
            cov_dd=self.product_dd / self.num_patches - torch.outer(mean_d, mean_d),
        )


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Means and covariances of pixel patches (D) and latent tokens (d), float64."""

    mean_D: Tensor
    mean_d: Tensor
    cov_DD: Tensor
    cov_Dd: Tensor
    cov_dd: Tensor


def _input_map(moments: _Moments, name: InputMap, *, generator: torch.Generator | None) -> tuple[Tensor, float]:
    """Return A, (D, d) with orthonormal columns, and the noise gain of the map that it comes from."""
    if name in ("random", "small_random"):
        if generator is None:
            raise ValueError(f"the input map {name} is drawn from a generator: pass one")
        gauss_Dd = torch.randn(moments.cov_Dd.shape, dtype=torch.float64, generator=generator)
        basis_Dd = torch.linalg.qr(gauss_Dd).Q
        return basis_Dd, 1 / _scale(moments, basis_Dd) ** 2
    basis_Dd = _nearest_orthonormal(moments.cov_Dd)
    noise_gain = 1 / _scale(moments, basis_Dd) ** 2
    if name == "procrustes":
        return basis_Dd, noise_gain
    if name == "ridge":
        regression_Dd = _ridge_regression(moments, noise_gain=noise_gain)
        return _nearest_orthonormal(regression_Dd), _noise_gain(regression_Dd)
    raise ValueError(f"unknown input map {name!r}")


def _nearest_orthonormal(matrix_Dd: Tensor) -> Tensor:
    """Return the polar factor of a matrix: the orthonormal columns nearest to its own."""
    left_Dd, _, right_dd = torch.linalg.svd(matrix_Dd, full_matrices=False)
    return left_Dd @ right_dd


def _scale(moments: _Moments, basis_Dd: Tensor) -> float:
    """Return s, with which ``A^T x / s`` has the variance of the latents."""
    return float(((basis_Dd.T @ moments.cov_DD @ basis_Dd).trace() / moments.cov_dd.trace()).sqrt())


def _noise_gain(map_Dd: Tensor) -> float:
    """Return by how much a map (applied transposed) multiplies the variance of white noise, mean over its outputs."""
    return float(map_Dd.square().sum(0).mean())


def _ridge_regression(moments: _Moments, *, noise_gain: float) -> Tensor:
    """Return the regression of latents on pixels, (D, d), whose ridge gives it a noise gain, by bisection."""
    variance_D, vectors_DD = torch.linalg.eigh(moments.cov_DD)
    # Rounding leaves tiny negative variances where the pixels do not vary.
    variance_D1, rotated_Dd = variance_D.clamp(min=0)[:, None], vectors_DD.T @ moments.cov_Dd
    # The gain falls with the ridge: at `high` it is at most `noise_gain`, since it is below |rotated|^2 / ridge^2.
    low = RIDGE * float(variance_D1.mean())
    high = max(low, float((rotated_Dd.square().sum(0).mean() / noise_gain).sqrt()))
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        if _noise_gain(rotated_Dd / (variance_D1 + middle)) > noise_gain:
            low = middle
        else:
            high = middle
    return vectors_DD @ (rotated_Dd / (variance_D1 + high))


def _no_fit(r2_in: float, num_patches: int) -> SourceError:
    return SourceError(
        "The lift does not fit this source: its latents are no rotated, scaled pixels",
        found=f"R^2 {r2_in:.2f} of the latents from {num_patches} patches",
        expected=f"at least {MIN_R2_IN}",
        fix="Use the recipe paper for this source.",
    )


def _ridged(covariance: Tensor) -> Tensor:
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)


def _flat(map_BChw: Tensor) -> Tensor:
    return map_BChw.movedim(1, -1).flatten(0, 2)
