"""FIBO's mask, and its layers: those of the text encoder are seldom as many as the transformer's blocks."""

import pytest
import torch
from tests.tiny import GRID, PROMPTS, size_px, tiny_pixel_pipeline

from latent2pixel.families import load_family

FAMILY = load_family("bria_fibo")


@torch.no_grad()
def test_prompts_of_different_length():
    """The pipeline keeps states of padding, which its mask hides."""
    pipe, calls = tiny_pixel_pipeline("bria_fibo"), []
    pipe.transformer.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    pipe(list(PROMPTS), **size_px("bria_fibo"), num_inference_steps=1, guidance_scale=1.0)
    sent, ours = calls[0], FAMILY.collate(pipe.transformer, FAMILY.encode(pipe, PROMPTS), GRID)
    mask_B11S = ours["joint_attention_kwargs"]["attention_mask"]
    assert torch.equal(mask_B11S, sent["joint_attention_kwargs"]["attention_mask"])
    assert not mask_B11S.all()
    shown_BL = mask_B11S[:, 0, 0, : sent["txt_ids"].shape[0]]
    for mine, theirs in zip(_states(ours), _states(sent), strict=True):
        torch.testing.assert_close(mine[shown_BL], theirs[shown_BL])
        assert not mine[~shown_BL].any()


@torch.no_grad()
def test_an_empty_prompt_beside_others():
    pipe = tiny_pixel_pipeline("bria_fibo")
    together, alone = FAMILY.encode(pipe, [*PROMPTS, ""]), FAMILY.encode(pipe, [""])[0]
    assert [len(item["text_encoder_layers"]) for item in together][2] == len(alone["text_encoder_layers"]) == 1
    assert torch.equal(together[2]["text_encoder_layers"], alone["text_encoder_layers"])


@torch.no_grad()
@pytest.mark.parametrize(("num_blocks", "expected"), [(2, [1, 2]), (4, [0, 1, 2, 2])])
def test_a_layer_for_each_block(num_blocks, expected):
    """First layers are left out, or the last serves again."""
    pipe = tiny_pixel_pipeline("bria_fibo")
    pipe.transformer.caption_projection = pipe.transformer.caption_projection[:num_blocks]
    items = FAMILY.encode(pipe, PROMPTS[:1])
    states_LED = items[0]["text_encoder_layers"]
    assert states_LED.shape[1] == 3
    layers = FAMILY.collate(pipe.transformer, items, GRID)["text_encoder_layers"]
    assert all(torch.equal(layer[0], states_LED[:, place]) for layer, place in zip(layers, expected, strict=True))


def _states(call):
    return [call["encoder_hidden_states"], *call["text_encoder_layers"]]
