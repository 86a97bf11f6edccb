"""Qwen-Image and its relatives: what they refuse, and what their caches leave out."""

import math

import pytest
import torch
from tests.tiny import GRID, HEAD, PROMPTS, noise, tiny_lift, tiny_pipeline

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.errors import GeometryError, SourceError
from latent2pixel.families import load_family
from latent2pixel.families.krea2 import DISTILLED_MU
from latent2pixel.families.qwen import EDITING
from latent2pixel.model.freezing import freeze_all_but, trainable_names
from latent2pixel.model.predict import predict_velocity


@pytest.mark.parametrize("key", EDITING)
def test_qwen_variants_that_are_not_plain_text_to_image_are_refused(key):
    config = dict(tiny_pipeline("qwen").transformer.config)
    with pytest.raises(SourceError, match="plain text-to-image"):
        load_family("qwen").pixel_config({**config, key: True}, 8)


def test_qwen21_refuses_odd_grids():
    family, pipe = load_family("qwen21"), tiny_pipeline("qwen21")
    with pytest.raises(GeometryError, match="groups of tokens"):
        family.collate(pipe.transformer, family.encode(pipe, PROMPTS), (3, 4))


def test_qwen21_refuses_reference_images():
    with pytest.raises(SourceError, match="reference images"):
        load_family("qwen21").grid({"img_shapes": [[(1, 4, 4), (1, 4, 6)]]})


def test_krea2_caches_no_padding():
    family, pipe = load_family("krea2"), tiny_pipeline("krea2")
    short, long = family.encode(pipe, PROMPTS)
    assert len(short["encoder_hidden_states"]) < len(long["encoder_hidden_states"]) < 100
    assert short["encoder_attention_mask"].sum() == len(short["encoder_hidden_states"])


@pytest.mark.parametrize("lift", [False, True])
def test_krea2_turbo_keeps_the_shift_that_its_pipeline_forces(lift):
    source = tiny_pipeline("krea2")
    source.register_to_config(is_distilled=True)
    fit = tiny_lift("krea2") if lift else None
    pipe = build_pixel_pipeline(source, patch_size=16, head=HEAD, lift=fit)
    factor = fit.scale if lift else 1.0
    shift = load_family("krea2").shift(pipe.scheduler, 4096)
    assert shift == pytest.approx(factor * math.exp(DISTILLED_MU))
    source.scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=DISTILLED_MU + math.log(factor))
    pipe.scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=DISTILLED_MU)
    torch.testing.assert_close(pipe.scheduler.sigmas, source.scheduler.sigmas)


def test_nucleus_trains_in_mixed_precision_whatever_its_source_says():
    """Failed once: the grouped product of experts met bfloat16 weights and float32 values."""
    source = tiny_pipeline("nucleus")
    source.transformer.to(torch.bfloat16).register_to_config(use_grouped_mm=True)
    pipe = build_pixel_pipeline(source, patch_size=16, head=HEAD)
    model, family = pipe.transformer.train(), load_family("nucleus")
    names = trainable_names(model, preset="paper", num_blocks=1)
    freeze_all_but(model, names)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.float() if name in names else parameter.data
    conditioning = family.collate(model, family.encode(pipe, PROMPTS), GRID)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = predict_velocity(model, noise(2, 3, 64, 96), torch.tensor([0.25, 0.75]), conditioning)
    velocity.square().mean().backward()
    assert velocity.isfinite().all()
