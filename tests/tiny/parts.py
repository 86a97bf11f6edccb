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


def vae(*, latent_channels: int = 4, shift_factor: float | None = 0.5) -> nn.Module:
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
        shift_factor=shift_factor,
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


def qwen_vae(*, latent_channels: int = 4) -> nn.Module:
    """Return Qwen-Image's VAE: of videos, with one mean and one spread a channel."""
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=latent_channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1 * channel - 0.3 for channel in range(latent_channels)],
        latents_std=[0.5 + 0.2 * channel for channel in range(latent_channels)],
    ).eval()


def qwen25_vl() -> nn.Module:
    """Return Qwen2.5-VL; its vision tower stays idle."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 32,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen3_vl(*, num_layers: int = 2, whole: bool = True) -> nn.Module:
    """Return Qwen3-VL, with or without its language head; its vision tower stays idle."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel

    text = {
        "vocab_size": 32,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision)
    return (Qwen3VLForConditionalGeneration if whole else Qwen3VLModel)(config).eval()


def processor() -> Any:
    """Return a processor of chats in the place of Qwen3-VL's, which cannot be built without torchvision.

    Both take the same arguments for texts, and messages whose content is a list of parts.
    """
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    whole = tokenizer(special_tokens=("<image>", "<|image_pad|>"))
    content = "{% for part in message['content'] %}{{ part['text'] }} {% endfor %}"
    template = CHAT_TEMPLATE.replace("{{ message['content'] }} ", content)
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(), tokenizer=whole, chat_template=template, patch_size=16
    )


def qwen21_vae(*, latent_channels: int = 16) -> nn.Module:
    """Return Qwen-Image 2.1's VAE: of videos with an alpha channel, 16 pixels a cell."""
    from diffusers import AutoencoderKLQwenImage21

    return AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=latent_channels,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1 * channel - 0.3 for channel in range(latent_channels)],
        latents_std=[0.5 + 0.2 * channel for channel in range(latent_channels)],
    ).eval()


def gemma2() -> nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
    )
    return Gemma2Model(config).eval()


def dc_ae(*, latent_channels: int = 16) -> nn.Module:
    """Return a deep compression autoencoder: 32 x 32 pixels a cell, no distribution."""
    from diffusers import AutoencoderDC

    widths = (4, 4, 8, 8, 16, 16)
    return AutoencoderDC(
        latent_channels=latent_channels,
        attention_head_dim=4,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * len(widths),
        decoder_layers_per_block=(1,) * len(widths),
        encoder_qkv_multiscales=((),) * len(widths),
        decoder_qkv_multiscales=((),) * len(widths),
        scaling_factor=0.4,
    ).eval()


def umt5() -> nn.Module:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(d_model=WIDTH, d_ff=32, d_kv=16, num_layers=2, num_heads=2, vocab_size=32)
    return UMT5EncoderModel(config).eval()


def t5gemma() -> nn.Module:
    """Return T5Gemma's encoder, which PRX's pipeline loads by the config of the whole model."""
    from transformers import T5GemmaConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    module = {
        "vocab_size": 32,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
    }
    encoder = T5GemmaEncoder(T5GemmaConfig(encoder=module, decoder=module, vocab_size=32).encoder).eval()
    encoder.config.encoder = module  # where diffusers looks for it when it loads a saved pipeline
    return encoder


def glm() -> nn.Module:
    from transformers import GlmConfig, GlmModel

    config = GlmConfig(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
    )
    return GlmModel(config).eval()


def long_clip() -> nn.Module:
    """Return a CLIP with a pooled projection and places for 248 tokens, HiDream's."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=32,
        max_position_embeddings=248,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=0,
    )
    return CLIPTextModelWithProjection(config).eval()


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        attn_implementation="eager",  # HiDream's pipeline asks for the attention weights
    )
    return LlamaForCausalLM(config).eval()


def qwen3_causal(*, num_layers: int) -> nn.Module:
    """Return Qwen3 with its language head, which stays idle."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
    )
    return Qwen3ForCausalLM(config).eval()


def mistral3(*, num_layers: int) -> nn.Module:
    """Return Mistral 3; its vision tower stays idle."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text = {
        "model_type": "mistral",
        "vocab_size": 32,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 28,
    }
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)).eval()


def flux2_vae() -> nn.Module:
    """Return FLUX.2's VAE, which keeps mean and variance of every value of a token."""
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    nn.init.normal_(vae.bn.running_mean)
    nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae.eval()
