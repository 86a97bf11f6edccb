"""Latents of VAEs that normalise tokens of 2 x 2 cells by a mean and a variance that they keep, as FLUX.2's does.

Shape letters: B batch, C image channels, Z latent channels, H and W size in pixels or latent cells, h and w the token
grid, d values of a latent token.
"""

from typing import Any

from torch import Tensor


class TokenNormVAE:
    """Base of families with such a VAE; stands before their other base.

    Source:
        diffusers 0.42, ``AutoencoderKLFlux2`` and ``Flux2Pipeline.__call__``, which undoes the normalisation.
    """

    def latents(self: Any, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return the latents of images in [-1, 1], every value of a token of mean 0 and variance 1: (B, Z, H, W)."""
        tokens_Bdhw, norm = self.tokens(self.vae_mean(pipe, images_BCHW)), pipe.vae.bn
        mean_d, variance_d = norm.running_mean.float(), norm.running_var.float() + self.norm_eps(pipe)
        return self.untokens((tokens_Bdhw - mean_d.view(-1, 1, 1)) / variance_d.sqrt().view(-1, 1, 1))

    def norm_eps(self, pipe: Any) -> float:
        """Return what the pipeline adds to the variances."""
        return pipe.vae.config.batch_norm_eps
