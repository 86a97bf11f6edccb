"""The miniature source from nothing, with numbers so small that only its wiring is tested."""

import json

import pytest
import torch

from latent2pixel.errors import ConfigError
from latent2pixel.world.build_source import build_source
from latent2pixel.world.levels import LEVELS
from latent2pixel.world.train_source import SourceTraining
from latent2pixel.world.train_vae import VAETraining


def build(out, *, steps=3, family="z_image", from_shipped=False, guidance_scales=(2.0, 5.0)):
    lines = []
    folder = build_source(
        out,
        level=LEVELS["easy"],
        vae_settings=VAETraining(steps=3, batch_size=2),
        settings=SourceTraining(
            family=family,
            dim=32,
            num_layers=1,
            steps=steps,
            batch_size=2,
            report_every=1,
            cooldown_steps=1,
            compile=False,
        ),
        num_scenes=8,
        from_shipped=from_shipped,
        guidance_scales=guidance_scales,
        num_captions=6,
        announce=lines.append,
    )
    return folder, lines


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("build")
    return out, *build(out)


def test_source_is_a_stock_pipeline(built):
    from diffusers import DiffusionPipeline

    _, folder, _ = built
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    assert type(pipe).__module__.startswith("diffusers.")
    assert type(pipe.transformer).__module__.startswith("diffusers.")
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a red circle", height=64, width=64, num_inference_steps=2).images
    assert image.size == (64, 64)


def test_source_comes_with_its_card_and_score(built):
    _, folder, _ = built
    score = json.loads((folder / "score.json").read_text())
    assert score["num_captions"] == 6
    card = (folder / "README.md").read_text()
    assert f"{score['score']:.3f}" in card
    assert "chance" in card
    assert "Guidance was chosen" in card
    assert "_name_or_path" not in (folder / "vae" / "config.json").read_text()
    assert [line["step"] for line in curve(folder) if "loss" in line] == [1, 2, 3]


def test_second_call_goes_on(built):
    out, _, lines = built
    vae = out / "work" / "vae" / "diffusion_pytorch_model.safetensors"
    before = vae.stat().st_mtime_ns
    folder, more_lines = build(out, steps=5)
    assert vae.stat().st_mtime_ns == before
    assert any(line.startswith("VAE") for line in lines)
    assert not any(line.startswith("VAE") for line in more_lines)
    assert [line["step"] for line in curve(folder) if "loss" in line] == [1, 2, 3, 4, 5]


def test_cogview4_is_a_stock_pipeline_too(tmp_path):
    from diffusers import DiffusionPipeline

    folder, _ = build(tmp_path, steps=1, family="cogview4", guidance_scales=(2.0,))
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    assert type(pipe).__name__ == "CogView4Pipeline"
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a red circle", height=64, width=64, num_inference_steps=2).images
    assert image.size == (64, 64)
    card = (folder / "README.md").read_text()
    assert "`CogView4Pipeline`" in card
    assert "width 32, 1 blocks" in card
    assert "noise shift 0.438" in card  # of 16 tokens: 0.75 * (16 / 256) ** 0.5 + 0.25
    assert "`GlmModel`" in card
    assert "--set family=cogview4" in card


def test_shipped_weights_are_of_one_family(tmp_path):
    with pytest.raises(ConfigError, match="z_image"):
        build(tmp_path, family="cogview4", from_shipped=True)
    assert list(tmp_path.iterdir()) == []


def curve(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
