"""FIBO 2: single-stream DiT on image and a gist of the text, whose hidden states five of its blocks read again.

Shape letters: B batch, L text tokens, E inputs of the transformer from the text encoder, D their width, d values of a
latent token, N image tokens, V values carried out of a token.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import BriaFibo2Transformer2DModel
from diffusers.pipelines.bria_fibo2.pipeline_bria_fibo2 import DEFAULT_NEGATIVE_PROMPT
from torch import Tensor

from latent2pixel.families.base import Encoded, MapFamily
from latent2pixel.families.ragged import padded, ragged
from latent2pixel.families.token_norm import TokenNormVAE
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tokens import Grid, to_grid


class BriaFibo2(TokenNormVAE, MapFamily):
    """FIBO 2.0.

    The pipeline draws the texts that a caption asks for and shows them to its text encoder, at low noise levels only.
    Training does without such images, and so does sampling with ``call_options``.

    Source:
        diffusers 0.42, ``transformer_bria_fibo2.py`` and ``pipeline_bria_fibo2.py``.
    """

    name = "bria_fibo2"
    transformer_class = BriaFibo2Transformer2DModel
    pipeline_names = ("BriaFibo2Pipeline",)
    input_projections = ("x_embedder",)
    tail = ("final_layer",)
    tail_projection = "final_layer.linear"
    image_blocks = ("layers",)
    null_prompt = DEFAULT_NEGATIVE_PROMPT
    takes_embedded = False

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the lengths of the tables of rotary positions: the first is of the text."""
        _, rows, columns = config["axes_lens"]
        return PositionLimit(rows=rows, columns=columns)

    def width(self, model: Any) -> int:
        """Return ``dim``."""
        return model.config["dim"]

    def carry(self, model: Any, num_values: int) -> None:
        """Set aside what the tail returns: this unpatchify takes as many values of a token as came in, and no more."""
        model.final_layer.register_forward_hook(partial(_set_aside, num_values=model.x_embedder.in_features))

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Return what was set aside."""
        aside_BNV, model.final_layer.aside = model.final_layer.aside, None
        return to_grid(aside_BNV, grid)

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return the guidance, and that no images are drawn of the caption's text."""
        options = super().call_options(pipe, guidance_scale=guidance_scale, num_prompts=num_prompts)
        return {**options, "render_text_images": False}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return what the transformer reads of each prompt at its own length, (L, E, D).

        JSON captions are first written as the pipeline writes them; the prompt without content stays as it is.
        """
        texts = [prompt if prompt == self.null_prompt else _as_trained(pipe, prompt) for prompt in prompts]
        states_BELD, mask_BL = pipe.encode_prompt(texts)
        return ragged(mask_BL, encoder_hidden_states=states_BELD.transpose(1, 2).contiguous())

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states padded to the longest prompt, and their mask where lengths differ."""
        states_BLED, mask_BL = padded(items, "encoder_hidden_states", model)
        return {
            "encoder_hidden_states": states_BLED.transpose(1, 2),
            "encoder_attention_mask": None if mask_BL is None else mask_BL.bool(),
        }


def _as_trained(pipe: Any, prompt: str) -> str:
    """Return a JSON caption without empty values, in one compact line; any other text as it is."""
    caption, _ = pipe._parse_prompt(prompt)
    return prompt if isinstance(caption, str) else json.dumps(caption or {}, separators=(",", ":"), ensure_ascii=False)


def _set_aside(module: Any, _: tuple[Any, ...], output_BNV: Tensor, *, num_values: int) -> Tensor:
    """Hook of the tail: keep its output, and return something that the transformer can unpatchify."""
    module.aside = output_BNV
    return output_BNV.new_zeros(*output_BNV.shape[:-1], num_values)


FAMILY = BriaFibo2()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="BriaFibo2PixelTransformer2DModel", module="latent2pixel")
