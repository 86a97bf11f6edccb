"""FLUX.2 dev, which the contract tests leave to klein, and the noise shift that both pipelines compute themselves."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import GRID, HEAD, PROMPTS, OracleHead, noise, size_px, tiny_pipeline, tiny_pixel_pipeline
from tests.tiny.sources import flux2

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.errors import SourceError
from latent2pixel.families import load_family

FAMILY = load_family("flux2")
TOKENS = GRID[0] * GRID[1]


def tiny_dev():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = build_pixel_pipeline(flux2.build_dev(), head=HEAD)
    pipe.transformer.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def recorded(transformer):
    calls = []
    transformer.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


@torch.no_grad()
def test_dev_is_sent_what_its_pipeline_sends():
    pipe = tiny_dev()
    calls = recorded(pipe.transformer)
    pipe(prompt=list(PROMPTS), **size_px("flux2"), num_inference_steps=1, output_type="pt")
    ours = FAMILY.collate(pipe.transformer, FAMILY.encode(pipe, PROMPTS), GRID)
    assert ours["guidance"].tolist() == [4.0, 4.0]
    assert [key for key, value in ours.items() if not torch.equal(value, calls[0][key])] == []


def test_one_step_of_dev_lands_on_a_known_image():
    pipe = tiny_dev()
    target = noise(1, 3, *size_px("flux2").values()).clamp(-0.9, 0.9)
    pipe.transformer.head = OracleHead(target, family=FAMILY, sigma=1.0)
    images = pipe(prompt=PROMPTS[0], **size_px("flux2"), num_inference_steps=1, output_type="pt").images
    torch.testing.assert_close(images, target / 2 + 0.5, atol=1e-5, rtol=0)


def test_shift_is_the_pipelines_own():
    """At its default number of steps, every one of them."""
    pipe = tiny_pipeline("flux2")
    pipe(prompt=PROMPTS[0], **size_px("flux2"), num_inference_steps=50, output_type="latent", guidance_scale=1.0)
    shift, even = FAMILY.shift(pipe.scheduler, TOKENS), np.linspace(1, 1 / 50, 50)
    expected = shift * even / (1 + (shift - 1) * even)
    np.testing.assert_allclose(pipe.scheduler.sigmas[:-1].numpy(), expected, rtol=1e-5)


def test_multiplied_shift_is_fixed_and_the_pipeline_samples_with_it():
    pipe = tiny_pipeline("flux2")
    reference = FAMILY.shift(pipe.scheduler, flux2.SHIFT_TOKENS)
    assert reference == pytest.approx(7.56, abs=0.01)
    pipe.scheduler = FAMILY.with_shift(pipe.scheduler, 2.5, token_factor=0.25)
    for num_tokens in (TOKENS, flux2.SHIFT_TOKENS):
        assert FAMILY.shift(pipe.scheduler, num_tokens) == pytest.approx(2.5 * reference)
    again = FAMILY.with_shift(pipe.scheduler, 2.0)
    assert FAMILY.shift(again, TOKENS) == pytest.approx(5 * reference)
    pipe(prompt=PROMPTS[0], **size_px("flux2"), num_inference_steps=2, output_type="latent", guidance_scale=1.0)
    shift = 2.5 * reference
    np.testing.assert_allclose(pipe.scheduler.sigmas.numpy(), [1, shift / (1 + shift), 0], rtol=1e-5)


def test_reference_images_are_refused():
    pipe = tiny_pixel_pipeline("flux2")
    with pytest.raises(SourceError, match="no reference images"):
        pipe(Image.new("RGB", (64, 64)), prompt=PROMPTS[0], **size_px("flux2"), num_inference_steps=1)
