"""The parts that miniature sources of all families share: real diffusers and transformers classes at toy size.

The sizes follow measurements on two CPU cores (``dev/LOG.md``): the shipped transformer was trained there in 2.2 hours,
and its bfloat16 weights take less than 16 MB.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from latent2pixel.world.captions import draw_caption
from latent2pixel.world.levels import LEVELS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import PreTrainedTokenizerFast, Qwen3Model

RESOLUTION_PX = 64
"""Size of the pictures that the shipped source model is trained on."""
TEXT_WIDTH = 128
"""Width of the text encoder."""
TEXT_SIZES = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
"""Text encoders of all families."""
SHIPPED_SOURCE = Path(__file__).parent / "assets" / "source"
"""Folder of the shipped source model, loadable by the stock ``ZImagePipeline``."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's chat template without its system turn; the pipelines wrap every prompt in it."""
WORD_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Qwen's pre-tokenisation: words with their leading space, single digits, punctuation runs."""


def build_vae() -> "AutoencoderKL":
    """Return an untrained VAE: 8x downsampling, 4 latent channels, 0.94 M parameters."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=RESOLUTION_PX,
    )
    with torch.no_grad():
        # A log-variance near 0 drowns the latents in noise, and training stalls; -5 starts it almost clean.
        vae.encoder.conv_out.bias[4:] = -5.0
        vae.encoder.conv_out.weight[4:] *= 0.1
    return vae


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return a byte-level BPE tokenizer trained on the world's captions, with Qwen's special tokens and template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    generator = random.Random(0)
    corpus = [draw_caption(LEVELS["full"], "train", generator=generator).text for _ in range(20_000)]
    corpus += ["user\n", "assistant\n"] * 100
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="right",
        model_max_length=512,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_text_encoder(vocab_size: int) -> "Qwen3Model":
    """Return an untrained Qwen3 of two layers.

    ``ZImagePipeline`` reads ``hidden_states[-2]``, so only the first layer is ever used; Z-Image's own encoder
    leaves its last layer unused in the same way.
    """
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(vocab_size=vocab_size, tie_word_embeddings=True, **TEXT_SIZES)
    return Qwen3Model(config)
