"""PixelVAE: stands where a pipeline expects its VAE, and only reorders pixels.

Shape letters: B batch, C channels, H height, W width, Z channels after space-to-depth.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor
from torch.nn import functional

from latent2pixel.errors import ConfigError, GeometryError

BATCH_NORM_EPS = 1e-5
"""With a variance of 1 less than this, ``sqrt(variance + eps)`` is 1 to the last bit in float32."""


class PixelVAE(ModelMixin, ConfigMixin):
    """Space-to-depth codec: "latents" are pixels, ``factor`` x ``factor`` of them stacked into channels.

    With it a stock diffusers pipeline runs a pixel model unmodified: it asks this class for the latent geometry, draws
    noise of that shape, and has the result decoded. Nothing is learned and nothing is lost.

    Args:
        factor: Pixels per latent cell and axis, a power of two: ``codec_factor`` of the pixel transformer.
        in_channels: Image channels.
        noise_scale: How many times stronger the noise is beside the image: pixels are divided by it. Larger images hide
            less under the same noise (Li & He 2025, arXiv 2511.13720). 1: as published.
    """

    __module__ = "latent2pixel"  # recorded in model_index.json: the public name, not this file

    @register_to_config
    def __init__(self, factor: int = 8, in_channels: int = 3, noise_scale: float = 1.0) -> None:
        super().__init__()
        del in_channels  # register_to_config has kept it
        require_noise_scale(noise_scale)
        if factor < 1 or factor & (factor - 1):
            raise GeometryError(
                "The pixel codec folds by powers of two only",
                found=f"factor {factor}",
                expected="1, 2, 4, 8, ...: pipelines compute it as 2 ** (levels - 1)",
                fix="Use the transformer's `codec_factor`.",
            )
        # Not a weight: tells pipelines where the codec is. It is saved because diffusers refuses to load a part
        # without a weights file, and writes none for a part without tensors.
        self.register_buffer("anchor", torch.zeros(1))

    @property
    def config(self) -> FrozenDict:
        """The codec's own settings and those that pipelines read of their own VAE; only the former are saved.

        Geometry goes by other names in ``AutoencoderKL``, ``AutoencoderDC``, the VAEs of video models, and FLUX.2's.
        """
        own = self._internal_dict
        channels, levels = own["in_channels"] * own["factor"] ** 2, (1,) * own["factor"].bit_length()
        return FrozenDict(
            {
                **own,
                "latent_channels": channels,
                "z_dim": channels,
                "block_out_channels": levels,
                "encoder_block_out_channels": levels,
                "spatial_compression_ratio": own["factor"],
                "scaling_factor": 1.0,
                "shift_factor": 0.0,
                "latents_mean": [0.0] * channels,
                "latents_std": [1.0] * channels,
                "batch_norm_eps": BATCH_NORM_EPS,
                "force_upcast": False,
            }
        )

    @property
    def temperal_downsample(self) -> list[bool]:
        """One entry a halving, as the VAEs of video models spell and count it."""
        return [False] * (self._internal_dict["factor"].bit_length() - 1)

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per cell and axis."""
        return self._internal_dict["factor"]

    @property
    def bn(self) -> SimpleNamespace:
        """Statistics of tokens of 2 x 2 cells that change nothing, for pipelines whose VAE normalises by its own."""
        channels = 4 * self.config["latent_channels"]
        mean, variance = self.anchor.new_zeros(channels), self.anchor.new_full((channels,), 1 - BATCH_NORM_EPS)
        return SimpleNamespace(running_mean=mean, running_var=variance)

    @property
    def dtype(self) -> torch.dtype:
        """Always float32: pipelines cast to it before decoding, and bfloat16 pixels would lose half an 8-bit level."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where the pipeline has put the codec."""
        return self.anchor.device

    def encode(self, image_BCHW: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple["PointMass"]:
        """Fold an image into channels.

        Args:
            image_BCHW: Pixels in [-1, 1]; height and width multiples of ``factor``. Pipelines of video models pass one
                frame, (B, C, 1, H, W), and get one back.
            return_dict: As in diffusers.

        Returns:
            A distribution without spread on the folded image over ``noise_scale``, (B, C * factor**2, H / factor,
            W / factor).
        """
        folded_BZHW = _per_frame(functional.pixel_unshuffle, image_BCHW, self.config["factor"])
        distribution = PointMass(folded_BZHW / self.config["noise_scale"])
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def enable_tiling(self, *_args: Any, **_settings: Any) -> None:
        """Do nothing: reordering pixels needs no tiles."""

    def enable_slicing(self) -> None:
        """Do nothing: reordering pixels needs no slices."""

    def decode(
        self, folded_BZHW: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Unfold channels into an image: the exact inverse of ``encode``.

        Args:
            folded_BZHW: Shape (B, C * factor**2, H / factor, W / factor).
            return_dict: As in diffusers.
            generator: Accepted because pipelines pass it; unused.

        Returns:
            The image (B, C, H, W) in [-1, 1].
        """
        del generator
        image_BCHW = (
            _per_frame(functional.pixel_shuffle, folded_BZHW, self.config["factor"]) * self.config["noise_scale"]
        )
        return DecoderOutput(sample=image_BCHW) if return_dict else (image_BCHW,)


def require_noise_scale(noise_scale: float) -> None:
    """Check a noise scale.

    Raises:
        ConfigError: It is not above 0.
    """
    if not 0 < noise_scale < math.inf:
        raise ConfigError(
            "The noise scale is out of range",
            found=noise_scale,
            expected="a number above 0; 1 as published",
            fix="Correct --noise-scale.",
        )


def _per_frame(reorder: Callable[[Tensor, int], Tensor], map_BCHW: Tensor, factor: int) -> Tensor:
    """Reorder a map, or the only frame of a video (B, C, 1, H, W)."""
    return reorder(map_BCHW.squeeze(2), factor).unsqueeze(2) if map_BCHW.ndim == 5 else reorder(map_BCHW, factor)


class PointMass:
    """A distribution without spread, in the shape that pipelines expect of a VAE's posterior."""

    def __init__(self, mean_BZHW: Tensor) -> None:
        self.mean = mean_BZHW

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean; the generator is left untouched."""
        del generator
        return self.mean

    def mode(self) -> Tensor:
        """Return the mean."""
        return self.mean
