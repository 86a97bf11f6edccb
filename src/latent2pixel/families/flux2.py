"""FLUX.2: dual- then single-stream DiT, 2 x 2 cells packed to tokens that a BatchNorm of the VAE normalises.

Shape letters: B batch, L text tokens, D their width, d values of a latent token.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, split, stacked
from latent2pixel.families.position_ids import ImageIds
from latent2pixel.families.token_norm import TokenNormVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

GUIDANCE = 4.0
"""Guidance that a distilled model is told in training: the pipeline's default."""
NUM_STEPS = 50
"""The default of both pipelines, which let the noise shift fall with the number of steps."""
REFERENCE_TOKENS = (1024 // 16) ** 2
"""Of an image of 1024 x 1024 px, the pipelines' default size."""


class Flux2(TokenNormVAE, ImageIds):
    """FLUX.2 dev and klein.

    Both pipelines compute the noise shift themselves, from tokens and steps, with numbers that no scheduler's config
    holds. So it cannot be multiplied at every image size as in other families: a scheduler with another shift keeps
    the one of 1024 x 1024 px, at every size. With it the recipe lift suits images of about this size; for others, give
    the pipeline a ``FlowMatchEulerDiscreteScheduler`` with the shift that they need.

    Source:
        diffusers 0.42, ``transformer_flux2.py``, ``pipeline_flux2.py`` and ``pipeline_flux2_klein.py``.
    """

    name = "flux2"
    transformer_class = Flux2Transformer2DModel
    pipeline_names = ("Flux2Pipeline", "Flux2KleinPipeline")
    input_projections = ("x_embedder",)
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    def grid(self, call: Call) -> Grid:
        """Read the grid off the position ids.

        Raises:
            SourceError: If reference images stand behind the noisy one.
        """
        if call["img_ids"][..., 0].any():
            raise SourceError(
                "A pixel model of this family takes no reference images",
                found="position ids of further images",
                expected="tokens of the noisy image only",
                fix="Call the pipeline without image.",
            )
        return super().grid(call)

    def shift(self, scheduler: Any, num_tokens: int) -> float:
        """Return the noise shift k: what the pipelines compute for their default steps, or the scheduler's fixed one.

        Raises:
            SourceError: If the scheduler has none.
        """
        if not scheduler.config.get("use_dynamic_shifting", False):
            return super().shift(scheduler, num_tokens)
        return math.exp(compute_empirical_mu(num_tokens, NUM_STEPS))

    def with_shift(self, scheduler: Any, factor: float, *, token_factor: float = 1.0) -> Any:
        """Return a copy of a scheduler with its noise shift multiplied, fixed at that of ``REFERENCE_TOKENS``.

        Args:
            scheduler: Of a pipeline.
            factor: On the shift.
            token_factor: Tokens of an image now over what they were; a fixed shift does not depend on it.

        Raises:
            SourceError: If it has none.
        """
        if not scheduler.config.get("use_dynamic_shifting", False):
            return super().with_shift(scheduler, factor, token_factor=token_factor)
        shift = factor * self.shift(scheduler, REFERENCE_TOKENS)
        return type(scheduler).from_config(scheduler.config, use_dynamic_shifting=False, shift=shift)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return three layers' states of the text encoder, always padded to the pipeline's length: no mask hides it."""
        states_BLD, _ = pipe.encode_prompt(list(prompts))
        return split(encoder_hidden_states=states_BLD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states, position ids of text and image, and the guidance that distilled models embed."""
        states_BLD = stacked(items, "encoder_hidden_states", model)
        guidance_B = torch.full((len(items),), GUIDANCE, device=model.device)
        # Only the sizes of the latents are asked for.
        latents_B0hw = torch.empty(len(items), 0, *grid)
        return {
            "encoder_hidden_states": states_BLD,
            "txt_ids": Flux2Pipeline._prepare_text_ids(states_BLD).to(model.device),
            "img_ids": Flux2Pipeline._prepare_latent_ids(latents_B0hw).to(model.device),
            "guidance": guidance_B if model.config["guidance_embeds"] else None,
        }


FAMILY = Flux2()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="Flux2PixelTransformer2DModel", module="latent2pixel")
