"""What the trainer of miniature sources computes is what the stock pipelines compute, for every family."""

import copy
import random
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from tests.tiny import noise
from torch import nn

from latent2pixel.errors import StateError
from latent2pixel.families import load_family
from latent2pixel.families.base import TokenFamily
from latent2pixel.world.latents import LatentScenes, encode_scenes
from latent2pixel.world.levels import LEVELS
from latent2pixel.world.miniature import MiniatureName, load_miniature
from latent2pixel.world.render import render
from latent2pixel.world.render_ahead import BATCHES_AHEAD, render_ahead
from latent2pixel.world.scenes import draw_scene
from latent2pixel.world.source_model import SHIPPED_SOURCE, build_tokenizer, build_vae
from latent2pixel.world.train_source import SourceTrainer, SourceTraining
from latent2pixel.world.train_vae import VAETraining, train_vae

FAMILIES = get_args(MiniatureName)
CAPTIONS = ("a red circle", "a photo of three blue squares", "a green star to the left of a red ring")
"""Of different lengths."""
TINY = {"dim": 32, "num_layers": 2, "batch_size": 2, "compile": False}


def trainer_of(family, folder, *, device="cpu", captions=CAPTIONS, **settings):
    """Return a trainer in float32 whose transformer has no layer at zero."""
    torch.manual_seed(0)
    pipe = load_miniature(family).build(build_vae(), dim=TINY["dim"], num_layers=TINY["num_layers"])
    for module in (pipe.transformer, pipe.text_encoder):
        for index, parameter in enumerate(module.parameters()):
            parameter.data += 0.1 * noise(*parameter.shape, seed=index)
    # Far from mean 0, which is learned in few steps.
    scenes = LatentScenes(latents=(noise(len(captions), 4, 8, 8) + 2).bfloat16(), captions=captions)
    settings = SourceTraining(family=family, **{**TINY, **settings})
    trainer = SourceTrainer(pipe.to(device), scenes, level=LEVELS["easy"], folder=folder, settings=settings)
    pipe.to(dtype=torch.float32).set_progress_bar_config(disable=True)
    return trainer


@pytest.fixture(scope="module", params=FAMILIES)
def trainer(request, tmp_path_factory):
    return trainer_of(request.param, tmp_path_factory.mktemp("run"))


def test_every_miniature_has_its_familys_name():
    assert [load_miniature(name).family for name in FAMILIES] == list(FAMILIES)
    assert [load_family(name).name for name in FAMILIES] == list(FAMILIES)


def test_captions_are_encoded_as_the_pipeline_encodes_them(trainer):
    ours = trainer.encode(torch.tensor([0, 2, 1, 3]))
    theirs = trainer.family.encode(trainer.pipe, ["", CAPTIONS[1], CAPTIONS[0], CAPTIONS[2]])
    for own, stock in zip(ours, theirs, strict=True):
        assert own.keys() == stock.keys()
        for key in own:
            assert own[key].requires_grad
            # Other padding, so other shapes of the same matrix products.
            torch.testing.assert_close(own[key], stock[key], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(next(iter(ours[1].values()))[-8:], next(iter(ours[2].values()))[-8:], atol=0.01)


@torch.no_grad()
def test_prediction_is_the_velocity_that_the_pipeline_steps_along(trainer):
    """One Euler step from a noise level to zero: the velocity is what it went, over that level."""
    family, pipe, start_BCHW = trainer.family, trainer.pipe, noise(1, 4, 8, 8, seed=7)
    packed = isinstance(family, TokenFamily)
    start = family.sample(start_BCHW, {}) if packed else start_BCHW
    # CogView4's pipeline tells its transformer the time before the shift, and takes it apart from the noise level.
    told = {"timesteps": [400.0]} if family.name == "cogview4" else {}
    end = pipe(
        CAPTIONS[0], height=64, width=64, num_inference_steps=1, sigmas=[0.4], **told, latents=start.clone(),
        output_type="latent", **family.call_options(pipe, guidance_scale=0.0, num_prompts=1),
    ).images  # fmt: skip
    sigma = pipe.scheduler.sigmas[0]
    assert 0.2 < sigma < 0.9
    assert abs(sigma - 0.4) > 0.1  # shifted
    predicted_BCHW = trainer.predict(start_BCHW, sigma[None], trainer.encode(torch.tensor([1])))
    predicted = family.sample(predicted_BCHW, {}) if packed else predicted_BCHW
    assert predicted.abs().mean() > 0.1
    torch.testing.assert_close(start - sigma * predicted, end, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_caption_reaches_the_image_before_any_training(family, tmp_path):
    """Modulations start at zero, gates open: with gates shut no block would write anything."""
    torch.manual_seed(0)
    pipe = load_miniature(family).build(build_vae(), dim=32, num_layers=2)
    nn.init.normal_(pipe.transformer.get_submodule(load_family(family).tail_projection).weight)
    scenes = LatentScenes(latents=noise(3, 4, 8, 8).bfloat16(), captions=CAPTIONS)
    settings = SourceTraining(family=family, **TINY)
    trainer = SourceTrainer(pipe, scenes, level=LEVELS["easy"], folder=tmp_path, settings=settings)
    pipe.to(dtype=torch.float32)
    latents_BCHW, sigma_B = noise(1, 4, 8, 8), torch.tensor([0.5])
    first, second = (trainer.predict(latents_BCHW, sigma_B, trainer.encode(torch.tensor([row]))) for row in (1, 3))
    assert 0.01 < (first - second).std() < first.std()


def test_cogview4_pads_every_caption_on_its_left_to_whole_sixteens(tmp_path):
    captions = ("a red circle", " ".join(["a red circle"] * 8))
    trainer = trainer_of("cogview4", tmp_path, captions=captions)
    tokenizer, lengths = trainer.pipe.tokenizer, trainer.mask_NL.sum(1).tolist()
    assert lengths == [16, 16, 32]
    for caption, ids, length in zip(("", *captions), trainer.ids_NL, lengths, strict=True):
        kept = ids[:length].tolist()
        text = tokenizer.decode(kept)
        assert text == tokenizer.pad_token * kept.count(tokenizer.pad_token_id) + "<|im_start|>" + caption
    # Masked nowhere, so padding is learned as any other token is.
    trainer.encode(torch.tensor([1]))[0]["padding"].sum().backward()
    assert trainer.pipe.text_encoder.embed_tokens.weight.grad[tokenizer.pad_token_id].abs().sum() > 0


@torch.no_grad()
def test_noise_levels_follow_the_shift_and_else_the_scheduler(tmp_path):
    losses = {
        shift: trainer_of("cogview4", tmp_path / str(shift), shift=shift)._loss() for shift in (None, 0.4375, 3.0)
    }
    assert torch.equal(losses[None], losses[0.4375])  # CogView4's at 16 tokens
    assert (losses[None] - losses[3.0]).abs() > 0.01


def test_tokenizer_is_the_shipped_sources():
    from transformers import AutoTokenizer

    shipped, ours = AutoTokenizer.from_pretrained(SHIPPED_SOURCE / "tokenizer"), build_tokenizer()
    assert ours.get_vocab() == shipped.get_vocab()
    assert ours(list(CAPTIONS))["input_ids"] == shipped(list(CAPTIONS))["input_ids"]


def test_captions_that_come_twice_are_tokenized_once(tmp_path):
    trainer = trainer_of("z_image", tmp_path, captions=(CAPTIONS[1], CAPTIONS[0], CAPTIONS[1]))
    assert trainer.caption_rows.tolist() == [1, 2, 1]
    texts = [trainer.pipe.tokenizer.decode(ids) for ids in trainer.ids_NL]
    assert len(texts) == 3
    assert CAPTIONS[1] in texts[1]
    assert CAPTIONS[0] in texts[2]


def test_loss_falls_and_a_second_call_goes_on_exactly(tmp_path):
    def trained(folder, *steps):
        for last in steps:
            trainer = trainer_of("cogview4", folder, learning_rate=0.03)
            trainer.pipe.to(dtype=torch.bfloat16)
            losses = []
            while trainer.step < last:
                losses.append(trainer._train_step().item())
                trainer.step += 1
            trainer._save()
        return losses, trainer.masters

    losses, whole = trained(tmp_path / "whole", 30)
    _, halves = trained(tmp_path / "halves", 10, 30)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


@torch.no_grad()
def test_shipped_source_has_the_loss_of_its_curve(tmp_path):
    """Latents, captions, noise levels, clock and sign are those of its training; 0.53 at its end."""
    pipe = DiffusionPipeline.from_pretrained(SHIPPED_SOURCE, dtype=torch.float32)
    scenes = encode_scenes(pipe.vae, LEVELS["easy"], tmp_path, num=32)
    settings = SourceTraining(batch_size=32, compile=False)
    trainer = SourceTrainer(pipe, scenes, level=LEVELS["easy"], folder=tmp_path, settings=settings)
    assert 0.45 < np.mean([trainer._loss().item() for _ in range(5)]) < 0.65


def test_checkpoint_of_another_model_is_refused(tmp_path):
    trainer_of("cogview4", tmp_path)._save()
    with pytest.raises(StateError, match="another model"):
        trainer_of("z_image", tmp_path)


def test_scenes_are_rendered_ahead_in_order_and_no_further():
    generator = random.Random(0)
    batches = [[draw_scene(LEVELS["easy"], "train", generator=generator) for _ in range(2)] for _ in range(8)]
    drawn = []

    def draw():
        for batch in batches:
            drawn.append(batch)
            yield batch

    rendered = render_ahead(draw(), 64, num_processes=1)
    first = next(rendered)
    assert len(drawn) == 1 + BATCHES_AHEAD
    there = [first, *rendered]
    here = list(render_ahead(copy.deepcopy(batches), 64, num_processes=0))
    assert len(there) == len(here) == 8
    assert all(np.array_equal(one, other) for one, other in zip(there, here, strict=True))
    assert np.array_equal(here[3][1], render(batches[3][1], 64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_gpu_sees_the_batches_of_the_cpu(family, tmp_path):
    here, there = (
        trainer_of(family, tmp_path / device, device=device, steps=4, score_every=1000) for device in ("cpu", "cuda")
    )
    with torch.no_grad():
        torch.testing.assert_close(there._loss().cpu(), here._loss(), rtol=1e-3, atol=0)
    there.pipe.to(dtype=torch.bfloat16)
    first = there._train_step().item()
    there.step += 1
    there._save()
    resumed = trainer_of(family, tmp_path / "cuda", device="cuda")
    assert resumed.step == 1
    assert all(torch.equal(there.masters[name], resumed.masters[name]) for name in there.masters)
    assert np.isfinite([first, resumed._train_step().item()]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_vae_trains_and_encodes_on_a_gpu(tmp_path):
    vae = train_vae(LEVELS["easy"], VAETraining(steps=3, batch_size=2), device="cuda", num_processes=1)
    assert vae.device.type == "cuda"
    scenes = encode_scenes(vae, LEVELS["easy"], tmp_path, num=70, num_processes=1)
    assert scenes.latents.shape == (70, 4, 8, 8)
    assert scenes.latents.float().std() == pytest.approx(1, abs=0.2)
