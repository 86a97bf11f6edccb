"""The parts of the miniature source model: real diffusers and transformers classes at toy size.

The sizes follow measurements on two CPU cores (``dev/LOG.md``): the shipped transformer was trained there in 2.2 hours,
and its bfloat16 weights take less than 16 MB.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from latent2pixel.world.captions import draw_caption
from latent2pixel.world.levels import LEVELS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
    from transformers import PreTrainedTokenizerFast, Qwen3Model

RESOLUTION_PX = 64
"""Size of the pictures that the shipped source model is trained on."""
NOISE_SHIFT = 3.0
"""Noise shift of Z-Image's scheduler, kept so that the miniature exercises the paper's value (PAPER.md section 3)."""
SHIPPED_SOURCE = Path(__file__).parent / "assets" / "source"
"""Folder of the shipped source model, loadable by the stock ``ZImagePipeline``."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's chat template without its system turn; ``ZImagePipeline`` wraps every prompt in it."""
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
    """Return an untrained Qwen3 of two layers, width 128.

    ``ZImagePipeline`` reads ``hidden_states[-2]``, so only the first layer is ever used; Z-Image's own encoder
    leaves its last layer unused in the same way.
    """
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return Qwen3Model(config)


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
        n_heads=dim // 32,
        n_kv_heads=dim // 32,
        cap_feat_dim=128,
        axes_dims=[8, 12, 12],
        axes_lens=[1024, 512, 512],
    )
    _initialise(transformer)
    return transformer


def build_pipeline(
    *,
    vae: "AutoencoderKL",
    tokenizer: "PreTrainedTokenizerFast",
    text_encoder: "Qwen3Model",
    transformer: "ZImageTransformer2DModel",
) -> "ZImagePipeline":
    """Return the stock pipeline around the four parts, with Z-Image's scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=NOISE_SHIFT)
    return ZImagePipeline(
        scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer
    )


@torch.no_grad()
def _initialise(transformer: "ZImageTransformer2DModel") -> None:
    """Initialise as DiT does (Peebles & Xie 2022, section 3.2), with gates opened a little.

    DiT starts its residual gates at zero. Z-Image's gates are tanh(modulation), and a bias of 0.1 lets gradients reach
    the blocks from the first step.
    """
    for name, parameter in transformer.named_parameters():
        if "pad_token" in name:
            nn.init.normal_(parameter, std=0.02)
        elif "adaLN_modulation" in name or (name.startswith("all_final_layer") and "linear" in name):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    dim = transformer.dim
    for block in [*transformer.noise_refiner, *transformer.layers]:
        gates = block.adaLN_modulation[0].bias.view(4, dim)
        gates[1] = gates[3] = 0.1
