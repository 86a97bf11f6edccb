"""Stable Diffusion 3 and 3.5: MMDiT, latent maps patchified by a convolution inside the model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import SD3Transformer2DModel

from latent2pixel.families.base import Encoded, MapFamily, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid


class SD3(MapFamily):
    """Stable Diffusion 3 Medium, 3.5 Medium and Large.

    Source:
        diffusers 0.42, ``transformer_sd3.py`` and ``pipeline_stable_diffusion_3.py``.
    """

    name = "sd3"
    transformer_class = SD3Transformer2DModel
    pipeline_names = ("StableDiffusion3Pipeline",)
    clock = "1000 sigma"
    optional_text_encoders = ("text_encoder_3", "tokenizer_3")
    input_projections = ("pos_embed.proj",)
    same_at_every_step = ("context_embedder",)
    output_order = "channel last"

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the side of the table of positions, from whose middle the transformer takes as many as it needs."""
        return PositionLimit(rows=config["pos_embed_max_size"], columns=config["pos_embed_max_size"])

    def unreached(self, model: Any) -> tuple[str, ...]:
        """Name the text queries of the last block, whose text output nothing reads."""
        last = f"transformer_blocks.{len(model.transformer_blocks) - 1}.attn"
        return (f"{last}.add_q_proj", f"{last}.norm_added_q")

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the joint states of both CLIPs and T5, at their fixed lengths, and CLIP's pooled ones."""
        states_BLD, _, pooled_BD, _ = pipe.encode_prompt(list(prompts), None, None, do_classifier_free_guidance=False)
        return split(encoder_hidden_states=states_BLD, pooled_projections=pooled_BD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return both states; nothing depends on the grid."""
        return {key: stacked(items, key, model) for key in ("encoder_hidden_states", "pooled_projections")}


FAMILY = SD3()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="SD3PixelTransformer2DModel", module="latent2pixel")
