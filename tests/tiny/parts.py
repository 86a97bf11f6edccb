"""Parts that tiny pipelines of several families share: VAEs, text encoders and tokenizers with random weights."""

from typing import Any

from torch import nn

WIDTH = 32
"""Of every text encoder."""
WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "triangles",
    "two",
    "to",
    "the",
    "left",
    "of",
    "user",
    "assistant",
    "system",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def scheduler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, **settings)


def vae(*, latent_channels: int = 4) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=2,
        mid_block_add_attention=False,
        scaling_factor=0.7,
        shift_factor=0.5,
    ).eval()


def qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
    )
    return Qwen3Model(config).eval()


def clip(*, projected: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=32,
        max_position_embeddings=77,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=0,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5(*, width: int = WIDTH) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=width, d_ff=32, d_kv=16, num_layers=2, num_heads=2, vocab_size=32)
    return T5EncoderModel(config).eval()


def tokenizer(*, max_length: int | None = None, special_tokens: tuple[str, ...] = ()) -> Any:
    """Return a tokenizer of whole words, padding right, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *special_tokens, *WORDS]
    whole = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = {} if max_length is None else {"model_max_length": max_length}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=whole,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        additional_special_tokens=list(special_tokens),
        **settings,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
