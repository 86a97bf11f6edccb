"""What HiDream-I1 alone promises."""

import copy

import pytest
import torch
from tests.tiny import PROMPTS, noise, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.errors import GeometryError
from latent2pixel.families import load_family
from latent2pixel.model.predict import predict_velocity


@torch.no_grad()
def test_training_and_sampling_see_the_same_layout():
    """diffusers returns another layout in training; a copy of the model does not fall back to it either."""
    family, pipe = load_family("hidream"), tiny_pixel_pipeline("hidream")
    cond = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), (4, 6))
    noisy_BCHW, sigma_B = noise(2, 3, 64, 96), torch.tensor([0.25, 0.75])
    sampling = predict_velocity(pipe.transformer, noisy_BCHW, sigma_B, cond)
    for model in (pipe.transformer, copy.deepcopy(pipe.transformer)):
        training = predict_velocity(model.train(), noisy_BCHW, sigma_B, cond)
        torch.testing.assert_close(training, sampling, atol=1e-5, rtol=1e-4)  # experts add up in another order


def test_experts_train_even_where_the_source_forbids_it():
    config = dict(tiny_pipeline("hidream").transformer.config)
    pixel = load_family("hidream").pixel_config({**config, "force_inference_output": True}, 8)
    assert not pixel["force_inference_output"]


def test_large_images_that_are_not_square_are_refused():
    family, pipe = load_family("hidream"), tiny_pipeline("hidream")
    items = family.encode(pipe, PROMPTS[:1])
    for grid in ((9, 9), (8, 8), (4, 16)):
        family.collate(pipe.transformer, items, grid)
    with pytest.raises(GeometryError, match="at most 64 tokens"):
        family.collate(pipe.transformer, items, (5, 13))
