"""PixelVAE: stands where a pipeline expects its VAE, and only reorders pixels.

Shape letters: B batch, C channels, H height, W width, Z channels after space-to-depth.
"""

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor
from torch.nn import functional

from latent2pixel.errors import GeometryError


class PixelVAE(ModelMixin, ConfigMixin):
    """Space-to-depth codec: "latents" are pixels, ``factor`` x ``factor`` of them stacked into channels.

    With it a stock diffusers pipeline runs a pixel model unmodified: it asks this class for the latent geometry, draws
    noise of that shape, and has the result decoded. Nothing is learned and nothing is lost.

    Args:
        factor: Pixels per latent cell and axis, a power of two: the pixel patch divided by the trunk's own patch.
        in_channels: Image channels.
    """

    __module__ = "latent2pixel"  # recorded in model_index.json: the public name, not this file

    @register_to_config
    def __init__(self, factor: int = 8, in_channels: int = 3) -> None:
        super().__init__()
        del in_channels  # register_to_config has kept it
        if factor < 1 or factor & (factor - 1):
            raise GeometryError(
                "The pixel codec folds by powers of two only",
                found=f"factor {factor}",
                expected="1, 2, 4, 8, ...: pipelines compute it as 2 ** (levels - 1)",
                fix="Choose a patch size that is the source's latent patch times a power of two.",
            )
        # Not a weight: tells pipelines where the codec is. It is saved because diffusers refuses to load a part
        # without a weights file, and writes none for a part without tensors.
        self.register_buffer("anchor", torch.zeros(1))

    @property
    def config(self) -> FrozenDict:
        """The codec's own settings and those that pipelines read of an ``AutoencoderKL``; only the former are saved."""
        own = self._internal_dict
        return FrozenDict(
            {
                **own,
                "latent_channels": own["in_channels"] * own["factor"] ** 2,
                "block_out_channels": (1,) * own["factor"].bit_length(),
                "scaling_factor": 1.0,
                "shift_factor": 0.0,
                "force_upcast": False,
            }
        )

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
            image_BCHW: Pixels in [-1, 1]; height and width multiples of ``factor``.
            return_dict: As in diffusers.

        Returns:
            A distribution without spread on the folded image (B, C * factor**2, H / factor, W / factor).
        """
        distribution = PointMass(functional.pixel_unshuffle(image_BCHW, self.config["factor"]))
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(
        self, folded_BZHW: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Unfold channels into an image: the exact inverse of ``encode``.

        Args:
            folded_BZHW: Shape (B, C * factor**2, H / factor, W / factor).
            return_dict: As in diffusers.
            generator: Accepted because pipelines pass it; unused.

        Returns:
            The image (B, C, H, W), same values.
        """
        del generator
        image_BCHW = functional.pixel_shuffle(folded_BZHW, self.config["factor"])
        return DecoderOutput(sample=image_BCHW) if return_dict else (image_BCHW,)


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
