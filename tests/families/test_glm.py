"""What GLM-Image alone promises: codes of training images, dropped with the caption, and a clock one step behind."""

import pytest
import torch
from tests.tiny import GRID, PROMPTS, noise, size_px, tiny_pipeline, tiny_pixel_pipeline
from tests.tiny.sources.glm import FULL_PROMPTS, NUM_CODES

from latent2pixel.errors import SourceError
from latent2pixel.families import load_family
from latent2pixel.io.images import bytes_of

FAMILY = load_family("glm")


def images(batch, *, size=None):
    height, width = (size or size_px("glm")).values()
    return noise(batch, 3, height, width, seed=3).clamp(-1, 1)


def recorded_calls(pipe):
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda _m, _a, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


def test_codes_are_those_that_the_stock_pipeline_makes_of_an_image_to_edit(monkeypatch):
    """Its own call, up to the language model; diffusers 0.42 joins the features in a way its tokenizer cannot take."""
    from PIL import Image

    pipe, images_BCHW = tiny_pipeline("glm"), images(2)
    ours, encoder = FAMILY.encode_images(pipe, images_BCHW), pipe.vision_language_encoder
    as_one = encoder.get_image_tokens
    monkeypatch.setattr(encoder, "get_image_tokens", lambda features, grids: as_one(features[None], grids))
    monkeypatch.setattr(encoder, "generate", lambda **inputs: torch.zeros(1, 4096, dtype=torch.long))
    for image_CHW, item in zip(images_BCHW, ours, strict=True):
        picture = Image.fromarray(bytes_of(image_CHW))
        _, codes, grids = pipe.generate_prior_tokens(PROMPTS[:1], **size_px("glm"), image=[[picture]])
        assert grids[0].tolist() == [[1, *GRID]]
        assert torch.equal(item["prior_token_id"], codes[0])


def test_codes_tell_images_apart_and_can_be_cached():
    items = FAMILY.encode_images(tiny_pixel_pipeline("glm"), images(2))
    first, second = (item["prior_token_id"] for item in items)
    assert first.shape == second.shape == (GRID[0] * GRID[1],)
    assert first.dtype == torch.long
    assert 0 <= first.min() <= first.max() < NUM_CODES
    assert not torch.equal(first, second)
    assert first.is_contiguous()
    codes_hw = first.view(GRID)  # each on 2 x 2 tokens
    assert torch.equal(codes_hw[::2, ::2].repeat_interleave(2, 0).repeat_interleave(2, 1), codes_hw)


@pytest.mark.parametrize("size", [{"height": 48, "width": 64}, {"height": 16, "width": 16}])
def test_sizes_without_a_code_for_each_32_pixels_are_refused(size):
    with pytest.raises(SourceError, match=r"(?s)not make one code of 32 x 32 pixels.*from 32 to 2048"):
        FAMILY.encode_images(tiny_pipeline("glm"), images(1, size=size))


@torch.no_grad()
def test_a_dropped_caption_is_the_pipelines_branch_without_a_prompt():
    pipe = tiny_pixel_pipeline("glm")
    calls = recorded_calls(pipe)
    pipe(prompt=PROMPTS[:1], **size_px("glm"), num_inference_steps=1, guidance_scale=2.0, output_type="pt")
    with_prompt, without = calls
    ours = FAMILY.collate(pipe.transformer, FAMILY.encode(pipe, [FAMILY.null_prompt]), GRID)
    assert not with_prompt["prior_token_drop"].any()
    for key in ("encoder_hidden_states", "prior_token_drop", "target_size", "crop_coords"):
        assert torch.equal(without[key], ours[key])
    # The codes themselves differ, and nothing hangs on dropped ones.
    arguments = {key: without[key] for key in ("hidden_states", "timestep")}
    theirs = pipe.transformer(**arguments, **(ours | {"prior_token_id": without["prior_token_id"]})).sample
    assert torch.equal(theirs, pipe.transformer(**arguments, **ours).sample)


@torch.no_grad()
def test_a_batch_holds_samples_with_and_without_codes():
    pipe = tiny_pixel_pipeline("glm")
    told = FAMILY.encode(pipe, PROMPTS[:1])[0] | FAMILY.encode_images(pipe, images(1))[0]
    null = FAMILY.encode(pipe, [FAMILY.null_prompt])[0]
    both = FAMILY.collate(pipe.transformer, [null, told], GRID)
    assert both["prior_token_drop"].all(1).tolist() == [True, False]
    assert both["prior_token_drop"].any(1).tolist() == [True, False]
    assert torch.equal(both["prior_token_id"][1], told["prior_token_id"])


@torch.no_grad()
def test_prompts_of_one_batch_are_padded_as_the_pipeline_pads():
    pipe = tiny_pipeline("glm")
    items = FAMILY.encode(pipe, FULL_PROMPTS)
    assert len({len(item["encoder_hidden_states"]) for item in items}) == 2
    theirs_BLD, _ = pipe.encode_prompt(FULL_PROMPTS, do_classifier_free_guidance=False)
    assert torch.equal(FAMILY.collate(pipe.transformer, items, GRID)["encoder_hidden_states"], theirs_BLD)


def test_the_source_is_told_the_time_before_the_shift_less_one():
    # 4096 tokens: 0.25 + 0.75 * sqrt(4096 / 256)
    assert FAMILY.shift(tiny_pipeline("glm").scheduler, 4096) == FAMILY.clock_shift(4096) == pytest.approx(3.25)
    sigma_B = torch.tensor([3.25 * 0.5 / (1 + 2.25 * 0.5)])
    torch.testing.assert_close(FAMILY.told(sigma_B, 4096), torch.tensor([499.0]))


def test_other_families_are_told_nothing_of_images():
    family = load_family("flux")
    assert not family.reads_images
    assert family.encode_images(None, images(2)) == [{}, {}]
