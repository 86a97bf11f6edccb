"""Qwen-Image 2.1: causal DiT on text and image, one latent cell a token, latents of a video VAE with alpha."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import QwenImage21Transformer2DModel
from torch import Tensor

from latent2pixel.errors import GeometryError, SourceError
from latent2pixel.families.base import Encoded, TokenFamily
from latent2pixel.families.ragged import padded, ragged
from latent2pixel.families.video_vae import VideoVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid, to_grid
from latent2pixel.model.trunk import Call

NEGATIVE_POSITIONS = 1024
"""Of ``QwenImage21Rope``."""
SLOT = 2
"""Image tokens come in groups of 2 x 2, each of which takes one place in the text encoder's sequence."""


class Qwen21(VideoVAE, TokenFamily):
    """Qwen-Image 2.1, text to image.

    In a batch of prompts of different length the image stands behind the padding of the longest, so a prompt alone
    gives another result. The transformer knows one layout for a whole batch; the stock pipeline does the same.

    Source:
        diffusers 0.42, ``transformer_qwenimage21.py`` and ``pipeline_qwenimage21.py``.
    """

    name = "qwen21"
    transformer_class = QwenImage21Transformer2DModel
    pipeline_names = ("QwenImage21Pipeline",)
    pipeline_patch_px = 16  # the pipeline counts tokens with its own VAE's 16, whatever VAE it has
    latent_patch = 1
    input_projections = ("img_in",)

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return twice the table's positions below zero, where half of an image lies; beyond, others would be taken."""
        del config
        return PositionLimit(rows=2 * NEGATIVE_POSITIONS, columns=2 * NEGATIVE_POSITIONS)

    def grid(self, call: Call) -> Grid:
        """Read the grid off the image shapes.

        Raises:
            SourceError: If there are reference images.
        """
        if len(call["img_shapes"][0]) > 1:
            raise SourceError(
                "Pixel models of Qwen-Image 2.1 take no reference images",
                found=f"{len(call['img_shapes'][0])} images in a sample",
                expected="the one that is made",
                fix="Call the pipeline without `image`.",
            )
        _, rows, columns = call["img_shapes"][0][0]
        return rows, columns

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Tell the other grid of every sample, and keep as many places of the image behind the text."""
        (rows, columns), mask_BL = self.grid(call), call["img_mask"]
        length = mask_BL.shape[1] + (grid[0] * grid[1] - rows * columns) // SLOT**2
        shapes = [[(1, *grid)]] * len(call["img_shapes"])
        return {**call, "img_shapes": shapes, "img_mask": mask_BL[:, :length]}

    def map_of(self, call: Call) -> Tensor:
        """Undo the packing; what the transformer returns has the text in front."""
        rows, columns = self.grid(call)
        return self.untokens(to_grid(call[self.sample_argument][:, -rows * columns :], (rows, columns)))

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Put the tokens of the image, which stand behind the text, on their grid."""
        return to_grid(output[:, -grid[0] * grid[1] :], grid)

    @torch.no_grad()
    def vae_mean(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return the VAE's own latents of images in [-1, 1], all opaque: (B, Z, H, W), float32."""
        return super().vae_mean(pipe, torch.cat([images_BCHW, torch.ones_like(images_BCHW[:, :1])], dim=1))

    def token_px(self, pipe: Any) -> int:
        """Return the pixels per token and axis of a latent pipeline: those of a cell."""
        return pipe.vae_scale_factor

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return the true guidance, which needs a negative prompt for each prompt."""
        return {"true_cfg_scale": guidance_scale, "negative_prompt": [self.null_prompt] * num_prompts}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the states of each prompt at its own length."""
        states_BLD, mask_BL, _ = pipe.encode_prompt(list(prompts))
        return ragged(mask_BL, encoder_hidden_states=states_BLD)

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states padded to the longest prompt, their mask, the image shapes and the places of images.

        Raises:
            GeometryError: If a side of the grid is odd.
        """
        rows, columns = grid
        if rows % SLOT or columns % SLOT:
            raise GeometryError(
                "The image does not divide into the source's groups of tokens",
                found=f"{rows} x {columns} tokens",
                expected=f"both multiples of {SLOT}, so an image of multiples of {SLOT} patches",
                fix="Choose another image size.",
            )
        states_BLD, mask_BL = padded(items, "encoder_hidden_states", model)
        places = {"dtype": torch.bool, "device": model.device}
        text_BL = torch.zeros(states_BLD.shape[:2], **places)
        image_BL = torch.ones(len(items), rows * columns // SLOT**2, **places)
        return {
            "encoder_hidden_states": states_BLD,
            "encoder_hidden_states_mask": mask_BL,
            "img_shapes": [[(1, rows, columns)]] * len(items),
            "img_mask": torch.cat([text_BL, image_BL], dim=1),
        }


FAMILY = Qwen21()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="QwenImage21PixelTransformer2DModel", module="latent2pixel")
