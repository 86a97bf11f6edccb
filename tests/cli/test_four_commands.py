"""Every family by the same four commands: its source makes images, is converted, trained, and the result sampled."""

import pytest
from tests.tiny import FAMILIES, patch_px, save_tiny_pipeline, tiny_source
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.io.images import load_image
from latent2pixel.io.records import write_records


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", FAMILIES)
def test_images_conversion_training_and_a_picture(name, tmp_path):
    source, size_px = save_tiny_pipeline(name, tmp_path / "source"), 4 * patch_px(name)
    texts = getattr(tiny_source(name), "PROMPTS", ["red circle", "a blue square"])
    records = [{"id": str(i), "prompt": text, "major_class": "m", "sub_class": "s"} for i, text in enumerate(texts)]
    write_records(tmp_path / "prompts.jsonl", records)
    size, steps = ("--size", size_px), ("--steps", 1)
    run("data", "synthesize", source, tmp_path / "prompts.jsonl", tmp_path / "images", *size, *steps)
    run("convert", source, tmp_path / "pixel", "--head", "4,4,8,8", "--num-blocks", 1)
    settings = {
        "steps": 2, "batch_size": 2, "num_blocks": 1, "image_size_px": size_px, "precision": "no",
        "validation_images": 1, "validation_steps": 1, "validate_every": 0, "caption_dropout": 0.5, "num_workers": 0,
    }  # fmt: skip
    chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run("train", tmp_path / "pixel", tmp_path / "images", tmp_path / "run", *chosen)
    prompt = ("--prompt", texts[0])
    run("generate", tmp_path / "run" / "model", *prompt, "--out", tmp_path / "picture.png", *size, *steps)
    picture_CHW = load_image(tmp_path / "picture.png")
    assert picture_CHW.shape == (3, size_px, size_px)
    assert picture_CHW.std() > 0
