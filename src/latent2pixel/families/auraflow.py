"""AuraFlow: dual- then single-stream DiT, patches by a linear layer inside the model, learned positions."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from diffusers import AuraFlowTransformer2DModel

from latent2pixel.families.base import Encoded, MapFamily, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit, require_positions
from latent2pixel.model.tokens import Grid


class AuraFlow(MapFamily):
    """AuraFlow 0.1 to 0.3.

    Source:
        diffusers 0.42, ``auraflow_transformer_2d.py`` and ``pipeline_aura_flow.py``.
    """

    name = "auraflow"
    transformer_class = AuraFlowTransformer2DModel
    pipeline_names = ("AuraFlowPipeline",)
    input_projections = ("pos_embed.proj",)
    image_blocks = ("joint_transformer_blocks", "single_transformer_blocks")
    output_order = "channel last"

    def carry(self, model: Any, num_values: int) -> None:
        """Write the number of channels into the config, where this unpatchify reads it."""
        model.register_to_config(out_channels=num_values // self.latent_patch**2)

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the side of the square of learned positions."""
        side = isqrt(config["pos_embed_max_size"])
        return PositionLimit(rows=side, columns=side)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return UMT5's states, always padded to the pipeline's length as the transformer masks nothing."""
        states_BLD, _, _, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return split(encoder_hidden_states=states_BLD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states; nothing depends on the grid.

        Raises:
            GeometryError: If the image has more rows or columns than there are learned positions; the transformer
                would take wrong ones and say nothing.
        """
        require_positions(grid, self.position_limit(model.config))
        return {"encoder_hidden_states": stacked(items, "encoder_hidden_states", model)}


FAMILY = AuraFlow()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="AuraFlowPixelTransformer2DModel", module="latent2pixel")
