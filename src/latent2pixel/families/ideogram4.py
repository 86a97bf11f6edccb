"""Ideogram 4: single-stream DiT on text and image, tokens (row, column, channel) packed by the pipeline.

Shape letters: B batch, L text tokens of the longest prompt, N image tokens, S both together, F features of a text
token, n numbers of a position.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import Ideogram4Pipeline, Ideogram4Transformer2DModel
from diffusers.models.transformers.transformer_ideogram4 import IMAGE_POSITION_OFFSET, LLM_TOKEN_INDICATOR
from torch import Tensor
from torch.nn import functional

from latent2pixel.families.base import Encoded, TokenFamily
from latent2pixel.families.position_ids import first_ids
from latent2pixel.families.ragged import ragged
from latent2pixel.families.token_norm import TokenNormVAE
from latent2pixel.flow import sample_logit_normal_sigmas
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid, to_grid
from latent2pixel.model.trunk import Call

SCHEDULE_STD = 1.5
"""Of the normal variable behind the noise levels that the pipeline visits, by its default."""
UNSHIFTED_TOKENS = (512 // 16) ** 2
"""Of an image of 512 x 512 px, at which the pipeline's noise levels lie around a half."""


PLACES = ("segment_ids", "indicator")
"""What the transformer is told of each place of text and image beside its position."""


class Ideogram4(TokenNormVAE, TokenFamily):
    """Ideogram 4.

    The source guides with a second network that sees no text. A pixel model takes the place of both, as in every other
    family: trained with dropped captions it sees no text either. The source's second network is not used, so before
    such training only guidance 1 is faithful to the source.

    Source:
        diffusers 0.42, ``transformer_ideogram4.py`` and ``pipeline_ideogram4.py``.
    """

    name = "ideogram4"
    transformer_class = Ideogram4Transformer2DModel
    pipeline_names = ("Ideogram4Pipeline",)
    status = "contract tests at tiny size; published in float8: dequantise it first"
    twins = ("unconditional_transformer",)
    pipeline_patch_px = 16  # the pipeline's noise levels follow an image's pixels: as many tokens of this size
    takes_embedded = False
    sign = -1  # the pipeline negates the network's output
    clock = "1 - sigma"
    clock_in_own_dtype = True
    input_projections = ("input_proj",)
    tail = ("final_layer",)
    tail_projection = "final_layer.linear"
    image_blocks = ("layers",)
    token_order = "channel last"
    output_order = "channel last"

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return ``1 - sigma``, rounded as the pipeline rounds it."""
        return 1 - 1000 * sigma_B / 1000

    def grid(self, call: Call) -> Grid:
        """Read the grid off the position ids, in which the image comes last and has the largest."""
        rows, columns = (call["position_ids"][0, :, 1:].amax(0) - IMAGE_POSITION_OFFSET + 1).tolist()
        return rows, columns

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Keep the positions of the first rows and columns, and as many places behind the text of all else."""
        whole, ids_BSn = self.grid(call), call["position_ids"]
        text_BLn, image_BNn = ids_BSn.tensor_split([ids_BSn.shape[1] - whole[0] * whole[1]], dim=1)
        positions_BSn = torch.cat([text_BLn, first_ids(image_BNn, whole, grid)], dim=1)
        rest = {key: call[key][:, : positions_BSn.shape[1]] for key in ("encoder_hidden_states", *PLACES)}
        return {**call, **rest, "position_ids": positions_BSn}

    def map_of(self, call: Call) -> Tensor:
        """Undo the packing of the image's tokens, which stand behind the text."""
        rows, columns = self.grid(call)
        return self.untokens(to_grid(call[self.sample_argument][:, -rows * columns :], (rows, columns)))

    def sample(self, map_BZHW: Tensor, call: Call) -> Tensor:
        """Pack as the pipeline does, zeros at the places of the text."""
        image_BNd = super().sample(map_BZHW, call)
        return functional.pad(image_BNd, (0, 0, call["position_ids"].shape[1] - image_BNd.shape[1], 0))

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Put the tokens of the image, which stand behind the text, on their grid."""
        return to_grid(output[:, -grid[0] * grid[1] :], grid)

    def shift(self, scheduler: Any, num_tokens: int) -> float:
        """Return the median shift of the levels that the pipeline visits: its own, times the scheduler's."""
        return super().shift(scheduler, num_tokens) * math.sqrt(num_tokens / UNSHIFTED_TOKENS)

    def with_smaller_tokens(self, scheduler: Any, token_factor: float) -> Any:
        """Return a scheduler with the same noise shift where so many times as many tokens are counted in an image."""
        return self.with_shift(scheduler, 1 / math.sqrt(token_factor))

    def sample_sigmas(
        self,
        batch: int,
        *,
        scheduler: Any,
        num_tokens: int,
        shift: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw noise levels as the pipeline's steps are distributed: sigmoid of a normal variable, shifted."""
        shift = self.shift(scheduler, num_tokens) if shift is None else shift
        return sample_logit_normal_sigmas(batch, shift=shift, std=SCHEDULE_STD, generator=generator)

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return the guidance for all steps alike, instead of the pipeline's own schedule of it."""
        return {"guidance_scale": guidance_scale, "guidance_schedule": None}

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the features of each prompt at its own length; the prompt without content has none.

        The pipeline returns text and image as one sequence, so it is asked for an image of one token.
        """
        longest = max(_num_tokens(pipe, prompt) for prompt in prompts)
        features_BSF, _, _, role_BS = pipe.encode_prompt(list(prompts), 1, 1, longest, pipe.text_encoder.device)
        # It widens them to float32, which adds nothing.
        features_BSF = features_BSF.to(pipe.text_encoder.dtype)
        items = ragged(role_BS == LLM_TOKEN_INDICATOR, encoder_hidden_states=features_BSF)
        for prompt, item in zip(prompts, items, strict=True):
            if prompt == self.null_prompt:
                item["encoder_hidden_states"] = item["encoder_hidden_states"][:0].clone()
        return items

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return features, positions, segments and roles of text and image, text padded in front to the longest.

        The pipeline pads to 2048 text tokens; their segment hides them.
        """
        features = [item["encoder_hidden_states"] for item in items]
        longest = max(map(len, features))
        positions_BS3, segments_BS, roles_BS = Ideogram4Pipeline._prepare_ids(
            [len(text_LF) for text_LF in features], *grid, longest, model.device
        )
        width = {"device": model.device, "dtype": model.dtype}
        features_BSF = torch.zeros(*roles_BS.shape, features[0].shape[-1], **width)
        features_BSF[roles_BS == LLM_TOKEN_INDICATOR] = torch.cat(features).to(**width)
        return {
            "encoder_hidden_states": features_BSF,
            "position_ids": positions_BS3,
            "segment_ids": segments_BS,
            "indicator": roles_BS,
        }


def _num_tokens(pipe: Any, prompt: str) -> int:
    """Return the tokens of a prompt in the pipeline's chat."""
    messages = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    text = pipe.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return len(pipe.tokenizer(text, add_special_tokens=False)["input_ids"])


FAMILY = Ideogram4()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="Ideogram4PixelTransformer2DModel", module="latent2pixel")
