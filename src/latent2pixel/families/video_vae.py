"""Latents of VAEs of videos that keep a mean and a spread for every channel, asked for a single frame.

Shape letters: B batch, C image channels, Z latent channels, H and W size in pixels or latent cells.
"""

from typing import Any

import torch
from torch import Tensor


class VideoVAE:
    """Base of families with such a VAE; stands before their other base.

    Source:
        diffusers 0.42, ``AutoencoderKLQwenImage`` and ``QwenImagePipeline.__call__``, which undoes the normalisation.
    """

    def latents(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return the latents of images in [-1, 1], every channel of mean 0 and variance 1: (B, Z, H, W)."""
        mean_BZHW = self.vae_mean(pipe, images_BCHW)
        mean_Z, std_Z = (mean_BZHW.new_tensor(pipe.vae.config[key]) for key in ("latents_mean", "latents_std"))
        return (mean_BZHW - mean_Z.view(-1, 1, 1)) / std_Z.view(-1, 1, 1)

    @torch.no_grad()
    def vae_mean(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return the VAE's own latents of images in [-1, 1], each a video of one frame: (B, Z, H, W), float32."""
        frames_BC1HW = images_BCHW.to(pipe.vae.device, pipe.vae.dtype).unsqueeze(2)
        return pipe.vae.encode(frames_BC1HW).latent_dist.mode().squeeze(2).float()
