"""Qwen-Image: dual-stream DiT, 2 x 2 cells packed to tokens by the pipeline, latents of a video VAE."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, TokenFamily
from latent2pixel.families.ragged import padded, ragged
from latent2pixel.families.video_vae import VideoVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

MAX_TEXT_TOKENS = 512
"""The pipeline's default; its ``encode_prompt`` alone would allow twice as many."""
POSITIONS, LONGEST_TEXT = 4096, 1024
"""Positions on either side of zero, and the longest text that the pipeline allows: it follows half of the image."""
EDITING = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
"""Config keys that are off in text-to-image models; with the first the class fails in diffusers 0.42 itself."""


class Qwen(VideoVAE, TokenFamily):
    """Qwen-Image and Qwen-Image-2512.

    Source:
        diffusers 0.42, ``transformer_qwenimage.py`` and ``pipeline_qwenimage.py``.
    """

    name = "qwen"
    transformer_class = QwenImageTransformer2DModel
    pipeline_names = ("QwenImagePipeline",)
    input_projections = ("img_in",)
    same_at_every_step = ("txt_norm", "txt_in")

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with the values of a pixel token in, and as many out.

        Raises:
            SourceError: For a model that edits images or layers.
        """
        if found := [key for key in EDITING if source_config.get(key)]:
            raise SourceError(
                "This Qwen-Image variant is no plain text-to-image model",
                found=f"{', '.join(found)} in its configuration",
                expected=f"none of {', '.join(EDITING)}",
                fix="Use Qwen-Image or Qwen-Image-2512 as the source.",
            )
        return super().pixel_config(source_config, factor)

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return what the table of positions leaves beside a text: half of an image lies on either side of zero."""
        del config
        side = 2 * (POSITIONS - LONGEST_TEXT)
        return PositionLimit(rows=side, columns=side)

    def unreached(self, model: Any) -> tuple[str, ...]:
        """Name what makes the text output of the last block, which nothing reads."""
        last = f"transformer_blocks.{len(model.transformer_blocks) - 1}"
        text = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp")
        return tuple(f"{last}.{part}" for part in text)

    def grid(self, call: Call) -> Grid:
        """Read the grid off the image shapes."""
        _, rows, columns = call["img_shapes"][0][0]
        return rows, columns

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Tell the other grid of every sample."""
        return {**call, "img_shapes": [[(1, *grid)]] * len(call["img_shapes"])}

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return the true guidance, which needs a negative prompt: the model embeds none."""
        return {"true_cfg_scale": guidance_scale, "negative_prompt": [self.null_prompt] * num_prompts}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the states of each prompt at its own length."""
        states_BLD, mask_BL = pipe.encode_prompt(list(prompts), max_sequence_length=MAX_TEXT_TOKENS)
        return ragged(mask_BL, encoder_hidden_states=states_BLD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states padded to the longest prompt, their mask where lengths differ, and the image shapes."""
        states_BLD, mask_BL = padded(items, "encoder_hidden_states", model)
        return {
            "encoder_hidden_states": states_BLD,
            "encoder_hidden_states_mask": mask_BL,
            "img_shapes": [[(1, *grid)]] * len(items),
        }


FAMILY = Qwen()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="QwenImagePixelTransformer2DModel", module="latent2pixel")
