"""LongCat-Image: FLUX.1's transformer told by Qwen2.5-VL, the image behind the text on the positions' diagonal."""

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from diffusers import LongCatImagePipeline, LongCatImageTransformer2DModel
from diffusers.pipelines.longcat_image.pipeline_longcat_image import prepare_pos_ids

from latent2pixel.families.base import Encoded, split, stacked
from latent2pixel.families.position_ids import ImageIds
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid


class LongCat(ImageIds):
    """LongCat-Image.

    The pipeline lets its text encoder rewrite every prompt unless the call says ``enable_prompt_rewrite=False``;
    training uses captions as they are. Guided batches need a negative prompt for each of their prompts.

    Source:
        diffusers 0.42, ``transformer_longcat_image.py`` and ``pipeline_longcat_image.py``.
    """

    name = "longcat"
    transformer_class = LongCatImageTransformer2DModel
    pipeline_names = ("LongCatImagePipeline",)
    input_projections = ("x_embedder",)
    same_at_every_step = ("context_embedder", "pos_embed")
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return the guidance, as many empty negative prompts as there are prompts, and that these stay as they are."""
        options = super().call_options(pipe, guidance_scale=guidance_scale, num_prompts=num_prompts)
        return {**options, "negative_prompt": [self.null_prompt] * num_prompts, "enable_prompt_rewrite": False}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the text encoder's states, always padded to the pipeline's length, as nothing masks them."""
        states_BLD, _ = pipe.encode_prompt(list(prompts))
        return split(encoder_hidden_states=states_BLD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states, and position ids of the text and of the image behind it."""
        states_BLD = stacked(items, "encoder_hidden_states", model)
        length, (rows, columns) = states_BLD.shape[1], grid
        image = prepare_pos_ids(modality_id=1, type="image", start=(length, length), height=rows, width=columns)
        return {
            "encoder_hidden_states": states_BLD,
            "txt_ids": prepare_pos_ids(modality_id=0, type="text", num_token=length).to(model.device),
            "img_ids": image.to(model.device),
        }


FAMILY = LongCat()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="LongCatImagePixelTransformer2DModel", module="latent2pixel")

_prepare_latents = LongCatImagePipeline.prepare_latents


@wraps(_prepare_latents)
def _prepare_latents_of_transformer(
    self: Any, batch_size: int, num_channels_latents: int, *args: Any, **kw: Any
) -> Any:
    """Prepare latents of as many channels as the transformer takes.

    The pipeline of diffusers 0.42 asks for 16, a literal in its call, whatever the transformer: the same number for
    the released one, and the wrong one for any other. Nothing else in a saved pipeline can tell it otherwise.
    """
    del num_channels_latents
    # 2 x 2 cells in a token
    return _prepare_latents(self, batch_size, self.transformer.config.in_channels // 4, *args, **kw)


LongCatImagePipeline.prepare_latents = _prepare_latents_of_transformer
