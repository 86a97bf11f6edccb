"""Fits the lift in one pass over source images, in float64.

Shape letters: B batch, N patches, D values of a pixel patch, d values of a latent token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from latent2pixel.convert.images import FitImages
from latent2pixel.errors import DataError, SourceError
from latent2pixel.families import family_of
from latent2pixel.model.lift import LiftFit
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS

MIN_PATCHES_PER_VALUE = 4
"""Patches for each of a patch's values; with fewer the fit follows chance, and its R^2 says nothing."""
RIDGE = 1e-6
"""Ridge of the linear fits, relative to the mean variance: holds directions that never vary at zero."""
MIN_R2_IN = 0.25
"""Below this the trunk would see mostly something other than latents. A judgement, not a measured limit: the shipped
miniature reaches 0.31 and still gains (dev/LOG.md, 2026-11-24)."""


@torch.no_grad()
def encode_tokens(pipe: Any, images: FitImages) -> list[Tensor]:
    """Return the latent tokens (d, h, w) of every image, float16 on the CPU: 0.5 MB each at 1024 px and d = 64."""
    family = family_of(pipe.transformer)
    tokens = []
    for image_CHW in tqdm(images.images, desc="latents", unit="image"):
        tokens.append(family.tokens(family.latents(pipe, image_CHW[None]))[0].half().cpu())
    return tokens


def fit_lift(pipe: Any, images: FitImages, tokens: Sequence[Tensor], *, patch_size: int) -> LiftFit:
    """Fit the lift of a source, one pass over its images.

    Args:
        pipe: Latent source pipeline.
        images: About 1000 images; height and width multiples of the patch.
        tokens: Their latent tokens, as ``encode_tokens`` returns them.
        patch_size: Pixels per token and axis.

    Raises:
        DataError: There are too few images.
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
    statistics = LiftStatistics(IMAGE_CHANNELS * patch_size**2, family.token_dim(pipe.transformer.config))
    for image_CHW, tokens_dhw in zip(images.images, tokens, strict=True):
        patches_BDhw = functional.pixel_unshuffle(image_CHW[None], patch_size)
        statistics.add(_flat(patches_BDhw), _flat(tokens_dhw[None]))
    needed = MIN_PATCHES_PER_VALUE * IMAGE_CHANNELS * patch_size**2
    if statistics.num_patches < needed:
        raise DataError(
            "There are too few images to fit the lift on",
            found=f"{statistics.num_patches} patches of {patch_size} px in {images.name}",
            expected=f"at least {needed} patches; about 1000 images are best",
            fix="Make more with `l2p data synthesize`.",
        )
    return statistics.fit()


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

    def fit(self) -> LiftFit:
        """Return the lift.

        Raises:
            SourceError: The latents are too far from a linear image of the pixels.

        Source:
            A: orthogonal Procrustes (Schoenemann 1966): ``U V^T`` of the singular vectors of the cross-covariance.
        """
        mean_D, mean_d = self.sum_D / self.num_patches, self.sum_d / self.num_patches
        cov_DD = self.product_DD / self.num_patches - torch.outer(mean_D, mean_D)
        cov_Dd = self.product_Dd / self.num_patches - torch.outer(mean_D, mean_d)
        cov_dd = self.product_dd / self.num_patches - torch.outer(mean_d, mean_d)
        left_Dd, _, right_dd = torch.linalg.svd(cov_Dd, full_matrices=False)
        basis_Dd = left_Dd @ right_dd
        lifted_dd = basis_Dd.T @ cov_DD @ basis_Dd
        scale = float((lifted_dd.trace() / cov_dd.trace()).sqrt())
        # E |A^T x / s - z|^2 over E |z|^2, written with covariances
        missed = lifted_dd.trace() / scale**2 + cov_dd.trace() - 2 * (basis_Dd * cov_Dd).sum() / scale
        r2_in = float(1 - missed / cov_dd.trace())
        if r2_in < MIN_R2_IN:
            raise SourceError(
                "The lift does not fit this source: its latents are no rotated, scaled pixels",
                found=f"R^2 {r2_in:.2f} of the latents from {self.num_patches} patches",
                expected=f"at least {MIN_R2_IN}",
                fix="Use the recipe paper for this source.",
            )
        decode_Dd = torch.linalg.solve(_ridged(cov_dd), cov_Dd.T).T
        residual_DD = cov_DD - decode_Dd @ cov_Dd.T - cov_Dd @ decode_Dd.T + decode_Dd @ cov_dd @ decode_Dd.T
        variance_D, vectors_DD = torch.linalg.eigh((residual_DD + residual_DD.T) / 2)
        least_squares_dD = torch.linalg.solve(_ridged(cov_DD), cov_Dd).T
        return LiftFit(
            basis_Dd=basis_Dd.float(),
            scale=scale,
            offset_d=(basis_Dd.T @ mean_D - scale * mean_d).float(),
            decode_weight_Dd=decode_Dd.float(),
            decode_bias_D=(mean_D - decode_Dd @ mean_d).float(),
            residual_basis_DD=vectors_DD.float(),
            residual_variance_D=variance_D.clamp(min=0).float(),
            r2_in=r2_in,
            r2_out=float(1 - variance_D.clamp(min=0).sum() / cov_DD.trace()),
            r2_least_squares=float((least_squares_dD * cov_Dd.T).sum() / cov_dd.trace()),
            least_squares_noise_gain=float(least_squares_dD.square().sum(1).mean()),
            num_patches=self.num_patches,
        )


def _ridged(covariance: Tensor) -> Tensor:
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)


def _flat(map_BChw: Tensor) -> Tensor:
    return map_BChw.movedim(1, -1).flatten(0, 2)
