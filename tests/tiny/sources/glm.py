"""A tiny GLM-Image, with the model that writes its codes."""

from typing import Any

import torch
from diffusers import GlmImagePipeline, GlmImageTransformer2DModel
from tests.tiny import parts
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

UNGUIDED = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
CLOCK_ATOL = 1e-3  # of 1000: the pipeline tells times, here computed back from the noise levels
IGNORED = ("kv_caches",)  # of images to edit; none here, so its mode is None and blocks pass over it
GRID_MULTIPLE = 2  # codes of 32 pixels
FULL_PROMPTS = ["a 'red' circle", "the words 'two' and 'to the left'"]  # what stands in quotes is what T5 reads
NUM_CODES = 24
SPECIAL = ("<|image|>", "<sop>", "<eop>", "<|image_start|>", "<|image_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<|image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
)


def build() -> Any:
    from transformers import ByT5Tokenizer

    transformer = GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=3,
        text_embed_dim=parts.WIDTH,
        time_embed_dim=32,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=NUM_CODES,
    )
    for block in transformer.transformer_blocks:
        nn.init.normal_(block.norm1.linear.weight, std=0.5)  # gates as drawn almost shut the blocks off
    return GlmImagePipeline(
        tokenizer=ByT5Tokenizer(),
        processor=processor(),
        text_encoder=byt5(),
        vision_language_encoder=writer(),
        vae=vae(),
        transformer=transformer,
        scheduler=parts.scheduler(use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.25, max_shift=0.75),
    )


def told(grid: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Return codes of an image, each on 2 x 2 tokens as the pipeline has them."""
    rows, columns = grid
    codes_hw = torch.randint(NUM_CODES, (rows // 2, columns // 2), generator=torch.Generator().manual_seed(7))
    return {"prior_token_id": codes_hw.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1).flatten()}


def adapt(pipe: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Hand the pipeline the codes of ``told``, which it would draw at random."""
    size_px = pipe.vae_scale_factor * pipe.transformer.config.patch_size
    codes_L = told((call["height"] // size_px, call["width"] // size_px))["prior_token_id"]
    return {**call, "prior_token_ids": codes_L.repeat(len(call["prompt"]), 1)}


def vae() -> nn.Module:
    vae = parts.vae(shift_factor=None)
    vae.register_to_config(scaling_factor=None, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 0.7, 0.9, 1.1])
    return vae


def byt5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    vocabulary = 384  # of bytes
    config = T5Config(d_model=parts.WIDTH, d_ff=32, d_kv=16, num_layers=2, num_heads=2, vocab_size=vocabulary)
    return T5EncoderModel(config).eval()


def processor() -> Any:
    """Return the processor of the model that writes codes: half the size of images, one code for 16 pixels of it."""
    from transformers import GlmImageProcessor, PreTrainedTokenizerFast
    from transformers.models.glm_image.image_processing_pil_glm_image import GlmImageImageProcessorPil

    words = ["<pad>", "</s>", "<unk>", *SPECIAL, *parts.WORDS, *map(str, range(10))]
    whole = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    image, start, end, begin, finish = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole,
        eos_token=finish,
        bos_token=begin,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens={"image_token": image, "grid_bos_token": start, "grid_eos_token": end},
    )
    images = GlmImageImageProcessorPil(
        patch_size=16, merge_size=1, temporal_patch_size=1, size={"shortest_edge": 32**2, "longest_edge": 2048**2}
    )
    return GlmImageProcessor(image_processor=images, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)


def writer() -> nn.Module:
    """Return the model that writes codes: it never ends early, and every token that it writes is a code."""
    from transformers import GlmImageConfig, GlmImageForConditionalGeneration

    text = {
        "vocab_size": 64,
        "vision_vocab_size": NUM_CODES,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "image_size": 64}
    codes = {"embed_dim": 8, "num_embeddings": NUM_CODES, "latent_channels": 16}
    config = GlmImageConfig(
        text_config=text, vision_config=vision, vq_config=codes,
        image_token_id=3, image_start_token_id=6, image_end_token_id=7,
    )  # fmt: skip
    return GlmImageForConditionalGeneration(config).eval()
