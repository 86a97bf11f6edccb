"""PixArt-alpha at 1024 px: the same transformer, told the image's size."""

import torch
from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel
from tests.tiny import GRID, HEAD, PROMPTS, size_px, tiny_pipeline

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.families import load_family


@torch.no_grad()
def test_alpha_is_told_the_size_as_its_pipeline_does():
    parts = tiny_pipeline("pixart").components
    with torch.random.fork_rng(devices=[]):
        config = {**parts.pop("transformer").config, "use_additional_conditions": True}
        transformer = PixArtTransformer2DModel.from_config(config).eval()
    pipe = build_pixel_pipeline(PixArtAlphaPipeline(transformer=transformer, **parts), head=HEAD)
    pipe.set_progress_bar_config(disable=True)
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    pipe(list(PROMPTS), **size_px("pixart"), num_inference_steps=2, guidance_scale=1.0, use_resolution_binning=False)
    family, sent = load_family("pixart"), calls[0]["added_cond_kwargs"]
    ours = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), GRID)
    assert sent["resolution"].tolist() == [[64, 96], [64, 96]]
    assert all(torch.equal(ours["added_cond_kwargs"][key], sent[key]) for key in ("resolution", "aspect_ratio"))
    assert torch.equal(ours["encoder_hidden_states"], calls[0]["encoder_hidden_states"])
