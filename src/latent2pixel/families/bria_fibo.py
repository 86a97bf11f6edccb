"""FIBO: FLUX.1's transformer on whole latent cells, every block told by another layer of its text encoder.

Shape letters: B batch, L text tokens, N image tokens, S both, E layers of the text encoder, D their width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import BriaFiboPipeline, BriaFiboTransformer2DModel

from latent2pixel.families.base import Encoded
from latent2pixel.families.position_ids import ImageIds
from latent2pixel.families.ragged import padded, ragged
from latent2pixel.families.video_vae import VideoVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid
from latent2pixel.model.trunk import Call

MAX_TEXT_TOKENS = 3000
"""The pipeline's default."""


class BriaFibo(VideoVAE, ImageIds):
    """FIBO.

    Prompts are long JSON captions, and the states of all layers are kept: 150 KB for each of their tokens.

    Source:
        diffusers 0.42, ``transformer_bria_fibo.py`` and ``pipeline_bria_fibo.py``.
    """

    name = "bria_fibo"
    transformer_class = BriaFiboTransformer2DModel
    pipeline_names = ("BriaFiboPipeline",)
    clock = "1000 sigma"
    latent_patch = 1
    pipeline_patch_px = 16  # a literal in the pipeline
    input_projections = ("x_embedder",)
    same_at_every_step = ("context_embedder", "pos_embed")
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Keep the ids of the first rows and columns, and as much of a mask, whose image stands behind the text."""
        (rows, columns), told = self.grid(call), super().at_grid(call, grid)
        masks = call.get("joint_attention_kwargs") or {}
        if "attention_mask" not in masks:
            return told
        mask_B11S = masks["attention_mask"]
        length = mask_B11S.shape[-1] - rows * columns + grid[0] * grid[1]
        return {**told, "joint_attention_kwargs": {**masks, "attention_mask": mask_B11S[..., :length]}}

    def unreached(self, model: Any) -> tuple[str, ...]:
        """Name the embedding of a guidance that the pipeline tells no model."""
        return ("guidance_embed",) if model.config["guidance_embeds"] else ()

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the states of all layers of each prompt at its own length: (L, E, D)."""
        # Empty prompts apart: beside others the pipeline makes them as long as these.
        items: dict[int, Encoded] = {}
        for wanted in (True, False):
            places = [place for place, prompt in enumerate(prompts) if bool(prompt) == wanted]
            if places:
                texts = [prompts[place] for place in places]
                _, layers, mask_BL = pipe.get_prompt_embeds(texts, max_sequence_length=MAX_TEXT_TOKENS)
                rows = ragged(mask_BL, text_encoder_layers=torch.stack(layers, dim=2))
                items.update(zip(places, rows, strict=True))
        return [items[place] for place in range(len(prompts))]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states padded to the longest prompt, a layer for each block, position ids, and a mask if needed.

        As in the pipeline, first layers are left out where blocks are fewer, and the last serves again where they are
        more.
        """
        states_BLED, mask_BL = padded(items, "text_encoder_layers", model)
        layers, num_blocks = list(states_BLED.unbind(2)), len(model.caption_projection)
        ids = {"device": model.device, "dtype": model.dtype}
        arguments = {
            "encoder_hidden_states": torch.cat([layers[-1], layers[-2]], dim=-1),
            "text_encoder_layers": (layers + [layers[-1]] * max(0, num_blocks - len(layers)))[-num_blocks:],
            "txt_ids": torch.zeros(states_BLED.shape[1], 3, **ids),
            "img_ids": BriaFiboPipeline._prepare_latent_image_ids(len(items), *grid, **ids),
        }
        if mask_BL is None:
            return arguments
        image_BN = mask_BL.new_ones(len(items), grid[0] * grid[1])
        mask_B11S = torch.cat([mask_BL, image_BN], dim=1).bool()[:, None, None]
        return {**arguments, "joint_attention_kwargs": {"attention_mask": mask_B11S}}


FAMILY = BriaFibo()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="BriaFiboPixelTransformer2DModel", module="latent2pixel")
