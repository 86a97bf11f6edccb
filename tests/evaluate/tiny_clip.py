"""A real CLIP of a few thousand weights, and how its folder says which images it wants."""

import json

import torch
from tests.tiny.parts import tokenizer
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

PREPROCESSING = {
    "do_center_crop": True,
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 28},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


def save_with_preprocessing(model, folder):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder


def save_tiny_clip(folder):
    """Save one that reads eight tokens; with this seed it finds some prompts fitting and others not."""
    torch.manual_seed(2)
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **width, vocab_size=32, max_position_embeddings=8, eos_token_id=1, bos_token_id=0, pad_token_id=0
    )
    vision = CLIPVisionConfig(**width, image_size=28, patch_size=14)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12))
    save_with_preprocessing(model, folder)
    tokenizer().save_pretrained(folder)
    return folder
