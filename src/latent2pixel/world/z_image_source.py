"""The miniature Z-Image: single-stream transformer, captions at their own length.

Shape letters: B batch, L tokens of a caption, D width of the text encoder.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latent2pixel.world.miniature import HEAD_DIM, ROPE_AXES, Miniature, initialise, open_gates
from latent2pixel.world.source_model import TEXT_WIDTH, build_text_encoder, build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel

    from latent2pixel.families.base import Encoded

NOISE_SHIFT = 3.0
"""Noise shift of Z-Image's scheduler, kept so that the miniature exercises the paper's value (PAPER.md section 3)."""


class ZImageMiniature(Miniature):
    """Z-Image's transformer behind ``ZImagePipeline``; the shipped source is one."""

    family = "z_image"

    def build(self, vae: "AutoencoderKL", *, dim: int, num_layers: int) -> "ZImagePipeline":
        """Return the stock pipeline, with Z-Image's scheduler."""
        from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

        tokenizer = build_tokenizer()
        return ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=NOISE_SHIFT),
            vae=vae,
            text_encoder=build_text_encoder(len(tokenizer)),
            tokenizer=tokenizer,
            transformer=build_transformer(dim=dim, num_layers=num_layers),
        )

    def tokenize(self, pipe: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Wrap captions in the chat template as ``ZImagePipeline.encode_prompt`` does."""
        wrapped = [
            pipe.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for text in texts
        ]
        encoded = pipe.tokenizer(wrapped, padding=True, return_tensors="pt")
        return encoded.input_ids, encoded.attention_mask

    def encode(self, pipe: Any, ids_BL: Tensor, mask_BL: Tensor, lengths: Sequence[int]) -> "list[Encoded]":
        """Return the states before the last layer, each caption's at its own length."""
        output = pipe.text_encoder(input_ids=ids_BL, attention_mask=mask_BL, output_hidden_states=True)
        states_BLD = output.hidden_states[-2]
        return [{"cap_feats": states_LD[:length]} for states_LD, length in zip(states_BLD, lengths, strict=True)]


def build_transformer(*, dim: int = 192, num_layers: int = 8, latent_channels: int = 4) -> "ZImageTransformer2DModel":
    """Return an untrained Z-Image transformer at toy size, initialised for fast training.

    Args:
        dim: Width; a multiple of 32, the width of one attention head.
        num_layers: Blocks of the main stack.
        latent_channels: Channels of the VAE's latents.
    """
    from diffusers import ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=latent_channels,
        dim=dim,
        n_layers=num_layers,
        n_refiner_layers=1,
        n_heads=dim // HEAD_DIM,
        n_kv_heads=dim // HEAD_DIM,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=list(ROPE_AXES),
        axes_lens=[1024, 512, 512],
    )
    initialise(transformer, zero=("adaLN_modulation", "all_final_layer.2-1.linear"))
    for block in [*transformer.noise_refiner, *transformer.layers]:
        # Scale and gate of attention, then of the feed-forward part; the block takes tanh of the gates.
        open_gates(block.adaLN_modulation[0], parts=4, gates=(1, 3))
    return transformer


MINIATURE = ZImageMiniature()
