"""The miniature Ovis-Image: FLUX.1's double- and single-stream transformer, 256 places for the caption.

Shape letters: B batch, L tokens of a caption, D width of the text encoder.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from latent2pixel.world.miniature import HEAD_DIM, ROPE_AXES, Miniature, initialise, open_gates
from latent2pixel.world.source_model import TEXT_WIDTH, build_text_encoder, build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, OvisImagePipeline, OvisImageTransformer2DModel

    from latent2pixel.families.base import Encoded

CAPTION_PLACES = 256
"""Places for the caption, zeros behind it: default of the pipeline, which masks none of them."""


class OvisMiniature(Miniature):
    """Ovis-Image's transformer behind ``OvisImagePipeline``: another family than the shipped source's.

    Its pipeline words every caption behind a sentence of its own and drops that sentence's 28 tokens again. The
    tokenizer learns the sentence's words, so that it has as many tokens here.
    """

    family = "ovis"

    def build(self, vae: "AutoencoderKL", *, dim: int, num_layers: int) -> "OvisImagePipeline":
        """Return the stock pipeline, its noise shift growing with the image as FLUX.1's does."""
        from diffusers import FlowMatchEulerDiscreteScheduler, OvisImagePipeline

        pipe = OvisImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, use_dynamic_shifting=True),
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            transformer=build_transformer(dim=dim, num_layers=num_layers, latent_channels=vae.config.latent_channels),
        )
        tokenizer = build_tokenizer(pipe.system_prompt)
        pipe.register_modules(tokenizer=tokenizer, text_encoder=build_text_encoder(len(tokenizer)))
        return pipe

    def tokenize(self, pipe: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word captions as ``OvisImagePipeline.encode_prompt`` does."""
        encoded = pipe.tokenizer(
            pipe._get_messages(list(texts)), padding=True, add_special_tokens=False, return_tensors="pt"
        )
        return encoded.input_ids, encoded.attention_mask

    def encode(self, pipe: Any, ids_BL: Tensor, mask_BL: Tensor, lengths: Sequence[int]) -> "list[Encoded]":
        """Return the last states behind the pipeline's sentence, zeros behind the caption."""
        del lengths  # all captions take as many places
        states_BLD = pipe.text_encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        kept_BLD = (states_BLD * mask_BL[..., None])[:, pipe.user_prompt_begin_id :]
        # Causal and masked: the pipeline's longer padding changes no state, so zeros do instead of encoding it.
        padded_BLD = functional.pad(kept_BLD, (0, 0, 0, CAPTION_PLACES - kept_BLD.shape[1]))
        return [{"encoder_hidden_states": states_LD} for states_LD in padded_BLD.unbind()]


def build_transformer(*, dim: int, num_layers: int, latent_channels: int) -> "OvisImageTransformer2DModel":
    """Return an untrained Ovis-Image transformer at toy size, initialised for fast training.

    Args:
        dim: Width; a multiple of 32, the width of one attention head.
        num_layers: Blocks: a third of them double-stream, as in FLUX.1, at least one of each kind.
        latent_channels: Channels of the VAE's latents.
    """
    from diffusers import OvisImageTransformer2DModel

    num_double = max(1, num_layers // 3)
    transformer = OvisImageTransformer2DModel(
        in_channels=4 * latent_channels,
        out_channels=4 * latent_channels,
        num_layers=num_double,
        num_single_layers=max(1, num_layers - num_double),
        attention_head_dim=HEAD_DIM,
        num_attention_heads=dim // HEAD_DIM,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=ROPE_AXES,
    )
    modulations = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")
    initialise(transformer, zero=modulations)
    nn.init.zeros_(transformer.proj_out.weight)
    # Shift, scale and gate, of attention and of the feed-forward part.
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            open_gates(norm.linear, parts=6, gates=(2, 5))
    for block in transformer.single_transformer_blocks:
        open_gates(block.norm.linear, parts=3, gates=(2,))
    return transformer


MINIATURE = OvisMiniature()
