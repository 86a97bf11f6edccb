"""PRX: DiT whose blocks read text as further keys and values, tokens (channel, row, column) patchified inside."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import PRXTransformer2DModel
from diffusers.utils import is_ftfy_available

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, MapFamily, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid

TEXTS = ("encoder_hidden_states", "attention_mask")


class PRX(MapFamily):
    """PRX with FLUX.1's VAE.

    The stock pipeline needs ``use_resolution_binning=False`` for sizes beyond its own lists. It guides one prompt at a
    time: with more, diffusers 0.42 fails on the clock's shape.

    Source:
        diffusers 0.42, ``transformer_prx.py`` and ``pipeline_prx.py``.
    """

    name = "prx"
    transformer_class = PRXTransformer2DModel
    pipeline_names = ("PRXPipeline",)
    input_projections = ("img_in",)
    same_at_every_step = ("txt_in", "pe_embedder")
    tail = ("final_layer",)
    tail_projection = "final_layer.linear"
    image_blocks = ("blocks",)
    one_prompt_a_call = True

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 input channels.

        Raises:
            SourceError: For the variants with a deep compression autoencoder, or on pixels.
        """
        patch, bottleneck = source_config["patch_size"], source_config["bottleneck_size"]
        if patch != self.latent_patch or bottleneck is not None:
            raise SourceError(
                "This PRX variant has other tokens than those of 2 x 2 latent cells",
                found=f"patch_size {patch}, bottleneck_size {bottleneck}",
                expected=f"patch_size {self.latent_patch} without a bottleneck: FLUX.1's VAE",
                fix="Use a PRX release with FLUX.1's VAE, such as Photoroom/prx-512-t2i-sft.",
            )
        return super().pixel_config(source_config, factor)

    def width(self, model: Any) -> int:
        """Return ``hidden_size``."""
        return model.config["hidden_size"]

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return T5Gemma's states and mask at the tokenizer's length, of cleaned prompts.

        Raises:
            SourceError: If ftfy is missing, without which the pipeline cannot clean prompts.
        """
        if not is_ftfy_available():
            raise SourceError(
                "PRX's pipeline cleans prompts with a package that is not installed",
                found="no ftfy",
                expected="ftfy",
                fix="Run: pip install ftfy",
            )
        states_BLD, mask_BL, _, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return split(**dict(zip(TEXTS, (states_BLD, mask_BL), strict=True)))

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states and mask; nothing depends on the grid."""
        return {key: stacked(items, key, model) for key in TEXTS}


FAMILY = PRX()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="PRXPixelTransformer2DModel", module="latent2pixel")
