"""FIBO 2's captions, mask and text images."""

import copy
import json

import torch
from tests.tiny import GRID, PROMPTS, noise, size_px, tiny_pixel_pipeline

from latent2pixel.families import load_family
from latent2pixel.model.predict import predict_velocity

FAMILY = load_family("bria_fibo2")
CAPTION = {"short_description": "a red circle", "lighting": {}, "text_render": [{"text": "two"}]}


def sent_for(pipe, prompts):
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    options = FAMILY.call_options(pipe, guidance_scale=1.0, num_prompts=len(prompts))
    pipe(list(prompts), **size_px("bria_fibo2"), num_inference_steps=2, **options)
    return calls


@torch.no_grad()
def test_prompts_of_different_length():
    """The pipeline keeps states of padding, which its mask hides."""
    pipe = tiny_pixel_pipeline("bria_fibo2")
    sent = sent_for(pipe, PROMPTS)[0]
    ours = FAMILY.collate(pipe.transformer, FAMILY.encode(pipe, PROMPTS), GRID)
    mask_BL = ours["encoder_attention_mask"]
    assert torch.equal(mask_BL, sent["encoder_attention_mask"])
    assert not mask_BL.all()
    mine_BLED, theirs_BLED = (call["encoder_hidden_states"].transpose(1, 2) for call in (ours, sent))
    torch.testing.assert_close(mine_BLED[mask_BL], theirs_BLED[mask_BL])
    assert not mine_BLED[~mask_BL].any()


@torch.no_grad()
def test_captions_are_encoded_as_the_pipeline_writes_them_and_without_images_of_text():
    """Images would be shown at low noise levels only, of which training knows nothing."""
    pipe, prompt = tiny_pixel_pipeline("bria_fibo2"), json.dumps(CAPTION, indent=2)
    calls = sent_for(pipe, [prompt])
    states_1ELD = FAMILY.collate(pipe.transformer, FAMILY.encode(pipe, [prompt]), GRID)["encoder_hidden_states"]
    assert all(torch.equal(call["encoder_hidden_states"], states_1ELD) for call in calls)
    as_it_is_1ELD, _ = pipe.encode_prompt([prompt])
    assert as_it_is_1ELD.shape != states_1ELD.shape


@torch.no_grad()
def test_a_copy_carries_its_own_hidden_states():
    """They leave the transformer by a hook, which a copy must not share."""
    model = tiny_pixel_pipeline("bria_fibo2").transformer
    twin = copy.deepcopy(model)
    for parameter in twin.layers[-1].parameters():
        parameter.mul_(2)
    noisy, sigma_B = noise(1, 3, *size_px("bria_fibo2").values()), torch.tensor([0.5])
    cond = {"encoder_hidden_states": noise(1, 6, 5, model.config["cap_feat_dim"])}
    first, other, again = (predict_velocity(each, noisy, sigma_B, cond) for each in (model, twin, model))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
