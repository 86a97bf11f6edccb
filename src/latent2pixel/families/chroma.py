"""Chroma: FLUX.1's transformer without CLIP, its modulation made by one small network, told which text is padding."""

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel
from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock
from torch import nn

from latent2pixel.families.base import Encoded, split, stacked
from latent2pixel.families.position_ids import ImageIds
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call


class Chroma(ImageIds):
    """Chroma1.

    The pipeline's mask holds ones and zeros as floats, which diffusers adds to the attention scores: text that it
    leaves out weighs less, by the factor e, and is no less seen. So prompts keep all of the pipeline's length.

    Source:
        diffusers 0.42, ``transformer_chroma.py`` and ``pipeline_chroma.py``.
    """

    name = "chroma"
    transformer_class = ChromaTransformer2DModel
    pipeline_names = ("ChromaPipeline",)
    input_projections = ("x_embedder",)
    same_at_every_step = ("context_embedder", "pos_embed")
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Keep the ids of the first rows and columns, and as much of the mask, whose image stands behind the text."""
        (rows, columns), mask_BL = self.grid(call), call["attention_mask"]
        length = mask_BL.shape[1] - rows * columns + grid[0] * grid[1]
        return {**super().at_grid(call, grid), "attention_mask": mask_BL[:, :length]}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return T5's states at the pipeline's fixed length, and its mask, which counts one token of padding too."""
        states_BLD, _, mask_BL, *_ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return split(encoder_hidden_states=states_BLD, attention_mask=mask_BL)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states, position ids of text and image, and a mask of the text and the image behind it."""
        states_BLD, mask_BL = (stacked(items, key, model) for key in ("encoder_hidden_states", "attention_mask"))
        ids = {"device": model.device, "dtype": states_BLD.dtype}
        return {
            "encoder_hidden_states": states_BLD,
            "attention_mask": torch.cat([mask_BL, mask_BL.new_ones(len(items), grid[0] * grid[1])], dim=1),
            "txt_ids": torch.zeros(states_BLD.shape[1], 3, **ids),
            "img_ids": ChromaPipeline._prepare_latent_image_ids(len(items), *grid, **ids),
        }


class Checkpointed(ChromaTransformer2DModel):
    """The source with gradient checkpointing: diffusers 0.42 forgets the mask of single blocks that it recomputes."""

    _gradient_checkpointing_func: Any  # diffusers sets it without telling its type

    @wraps(ChromaTransformer2DModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the source; single blocks that will be recomputed are given the mask, which the call names."""
        if not self.gradient_checkpointing:
            return super().forward(*args, **kwargs)
        recompute, mask_BL = self._gradient_checkpointing_func, kwargs.get("attention_mask")

        def with_mask(block: nn.Module, *given: Any) -> Any:
            return recompute(block, *given, *((mask_BL,) if isinstance(block, ChromaSingleTransformerBlock) else ()))

        self._gradient_checkpointing_func = with_mask
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._gradient_checkpointing_func = recompute


FAMILY = Chroma()
PIXEL_CLASS = pixel_transformer_class(
    FAMILY, name="ChromaPixelTransformer2DModel", module="latent2pixel", source=Checkpointed
)
