"""ERNIE-Image: single-stream DiT, 2 x 2 cells stacked to channels by the pipeline, latents of FLUX.2's VAE."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel
from torch import Tensor

from latent2pixel.families.base import Encoded, Family
from latent2pixel.families.token_norm import TokenNormVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

BATCH_NORM_EPS = 1e-5
"""What the pipeline adds to the VAE's variances, whatever the configuration of the VAE says."""


class Ernie(TokenNormVAE, Family):
    """ERNIE-Image and ERNIE-Image-Turbo.

    Where the release's prompt enhancer is part of the stock pipeline, it rewrites every prompt before sampling unless
    the call says ``use_pe=False``. Training uses captions as they are.

    Source:
        diffusers 0.42, ``transformer_ernie_image.py`` and ``pipeline_ernie_image.py``.
    """

    name = "ernie"
    transformer_class = ErnieImageTransformer2DModel
    pipeline_names = ("ErnieImagePipeline",)
    clock = "1000 sigma"
    input_projections = ("x_embedder.proj",)
    tail = ("final_norm", "final_linear")
    tail_projection = "final_linear"
    image_blocks = ("layers",)

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with the values of a pixel token in and out."""
        values = IMAGE_CHANNELS * (factor * self.latent_patch) ** 2
        return {**source_config, "in_channels": values, "out_channels": values}

    def width(self, model: Any) -> int:
        """Return ``hidden_size``."""
        return model.config["hidden_size"]

    def token_dim(self, source_config: Mapping[str, Any]) -> int:
        """Return the values of a token as the pipeline stacks it."""
        return source_config["in_channels"]

    def map_of(self, call: Call) -> Tensor:
        """Undo the pipeline's stacking."""
        return self.untokens(call[self.sample_argument])

    def sample(self, map_BZHW: Tensor, call: Call) -> Tensor:
        """Stack as the pipeline does; the transformer takes one token a place."""
        return self.tokens(map_BZHW)

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Return the output: tokens on their grid."""
        return output

    def carry(self, model: Any, num_values: int) -> None:
        """Tell the unpatchify of single places how many values each carries."""
        model.out_channels = num_values

    def token_px(self, pipe: Any) -> int:
        """Return the pixels per token and axis of a latent pipeline, which counts with tokens."""
        return pipe.vae_scale_factor

    def norm_eps(self, pipe: Any) -> float:
        """Return the pipeline's own constant."""
        return BATCH_NORM_EPS

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return the guidance, and no rewriting of prompts: in training there is none either."""
        return {"guidance_scale": guidance_scale, "use_pe": False}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the states of each prompt at its own length."""
        states = pipe.encode_prompt(list(prompts), pipe.text_encoder.device)
        return [{"text_bth": states_LD.cpu()} for states_LD in states]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states padded to the longest prompt, and the length of each."""
        states = [item["text_bth"] for item in items]
        states_BLD, lengths_B = ErnieImagePipeline._pad_text(
            states, model.device, model.dtype, model.config["text_in_dim"]
        )
        return {"text_bth": states_BLD, "text_lens": lengths_B}


FAMILY = Ernie()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="ErnieImagePixelTransformer2DModel", module="latent2pixel")
