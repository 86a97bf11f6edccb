"""The miniature CogView4: joint attention with separate modulations for text, GLM's captions, size conditions.

Shape letters: B batch, L tokens of a caption, D width of the text encoder.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latent2pixel.families.cogview4 import SCHEDULE, TEXT_MULTIPLE
from latent2pixel.world.miniature import HEAD_DIM, Miniature, initialise, open_gates
from latent2pixel.world.source_model import TEXT_SIZES, TEXT_WIDTH, build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, CogView4Pipeline, CogView4Transformer2DModel
    from transformers import GlmModel, PreTrainedTokenizerFast

    from latent2pixel.families.base import Encoded

TIME_WIDTH = 128
"""Width of the embedded time and sizes, which all modulations read."""
SIZE_WIDTH = 16
"""Sines and cosines of each of the six sizes."""
ROPE_PLACES = 16
"""Places along an axis, over which the rotary embedding spreads the rows of any image; 256 in the released model."""
START = "<|im_start|>"
"""Before every caption, as GLM's tokenizer puts two tokens of its own: the empty caption is not empty."""


class CogView4Miniature(Miniature):
    """CogView4's transformer behind ``CogView4Pipeline``: another family than the shipped source's.

    The pipeline pads captions on the left to a multiple of 16 tokens and masks none of them, in the text encoder
    neither. So what a caption's states are depends on how many tokens stand before it.
    """

    family = "cogview4"

    def build(self, vae: "AutoencoderKL", *, dim: int, num_layers: int) -> "CogView4Pipeline":
        """Return the stock pipeline, with the released scheduler."""
        from diffusers import CogView4Pipeline, FlowMatchEulerDiscreteScheduler

        tokenizer = build_glm_tokenizer()
        return CogView4Pipeline(
            tokenizer=tokenizer,
            text_encoder=build_glm(len(tokenizer), padding=tokenizer.pad_token_id),
            vae=vae,
            transformer=build_transformer(dim=dim, num_layers=num_layers, latent_channels=vae.config.latent_channels),
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, **SCHEDULE),
        )

    def tokenize(self, pipe: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Pad each caption on its left as ``CogView4Pipeline.encode_prompt`` does of it alone; that counts as it."""
        padding = pipe.tokenizer.pad_token_id
        rows = [[padding] * (-len(row) % TEXT_MULTIPLE) + row for row in pipe.tokenizer(list(texts))["input_ids"]]
        ids_BL = torch.full((len(rows), max(map(len, rows))), padding)
        for row_L, row in zip(ids_BL, rows, strict=True):
            row_L[: len(row)] = torch.tensor(row)
        lengths_B = torch.tensor([len(row) for row in rows])
        return ids_BL, (torch.arange(ids_BL.shape[1]) < lengths_B[:, None]).long()

    def encode(self, pipe: Any, ids_BL: Tensor, mask_BL: Tensor, lengths: Sequence[int]) -> "list[Encoded]":
        """Return the states before the last layer, each caption's at its own length, and those of padding."""
        del mask_BL  # captions of a length are encoded together
        items: list[Encoded] = [{} for _ in lengths]
        padding_D = _states(pipe, ids_BL.new_full((1, 1), pipe.tokenizer.pad_token_id))[0, 0]
        for length in sorted(set(lengths)):
            places = [place for place, own in enumerate(lengths) if own == length]
            states_BLD = _states(pipe, ids_BL[places, :length])
            for place, states_LD in zip(places, states_BLD.unbind(), strict=True):
                items[place] = {"encoder_hidden_states": states_LD, "padding": padding_D}
        return items


def _states(pipe: Any, ids_BL: Tensor) -> Tensor:
    return pipe.text_encoder(ids_BL, output_hidden_states=True).hidden_states[-2]


def build_glm_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the world's tokenizer, padding on the left and with a token before every caption, as GLM's does."""
    from tokenizers import processors

    tokenizer = build_tokenizer()
    tokenizer.padding_side = "left"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.convert_tokens_to_ids(START))]
    )
    return tokenizer


def build_glm(vocab_size: int, *, padding: int) -> "GlmModel":
    """Return an untrained GLM of two layers, of which the pipeline reads the first.

    Args:
        vocab_size: Tokens of the tokenizer.
        padding: Its padding token.
    """
    from transformers import GlmConfig, GlmModel

    config = GlmConfig(vocab_size=vocab_size, pad_token_id=padding, eos_token_id=padding, **TEXT_SIZES)
    model = GlmModel(config)
    # GlmModel freezes it at zero, as padding is masked elsewhere; this pipeline masks nothing.
    model.embed_tokens.padding_idx = None
    return model


def build_transformer(*, dim: int, num_layers: int, latent_channels: int) -> "CogView4Transformer2DModel":
    """Return an untrained CogView4 transformer at toy size, initialised for fast training.

    Args:
        dim: Width; a multiple of 32, the width of one attention head.
        num_layers: Blocks.
        latent_channels: Channels of the VAE's latents.
    """
    from diffusers import CogView4Transformer2DModel

    transformer = CogView4Transformer2DModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=num_layers,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=dim // HEAD_DIM,
        text_embed_dim=TEXT_WIDTH,
        time_embed_dim=TIME_WIDTH,
        condition_dim=SIZE_WIDTH,
        rope_axes_dim=(ROPE_PLACES, ROPE_PLACES),
    )
    initialise(transformer, zero=("norm1.linear", "norm_out.linear"))
    nn.init.zeros_(transformer.proj_out.weight)
    for block in transformer.transformer_blocks:
        # Shift, scale and gate, of attention and of the feed-forward part, each for the image and for the text.
        open_gates(block.norm1.linear, parts=12, gates=(4, 5, 10, 11))
    return transformer


MINIATURE = CogView4Miniature()
