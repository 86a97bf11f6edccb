"""What a run with a LoRA leaves: a model that holds it, and the LoRA alone as diffusers loads it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import tiny_pixel_pipeline
from tests.train.test_lora import hidden_states
from tests.workflow.test_merge import CONFIG, assert_equal_models, images, weights_of  # noqa: F401 (a fixture)

from latent2pixel.errors import StateError
from latent2pixel.generate import load_pipeline
from latent2pixel.io.merge import merge_pipeline
from latent2pixel.train.checkpoint import newest_folder
from latent2pixel.train.lora import is_lora
from latent2pixel.workflow.merge import merge
from latent2pixel.workflow.transfer import transfer

pytest.importorskip("peft")
RANK, ALPHA = 2, 5.0
"""A scale of 2.5, which rounds, unlike a power of two."""


@pytest.mark.parametrize("name", ["z_image", "qwen"])
def test_lora_in_the_model_and_alone_do_what_it_did_in_training(name, images, tmp_path):  # noqa: F811 (the fixture)
    config = replace(
        CONFIG, lora_rank=RANK, lora_alpha=ALPHA, learning_rate=1e-2, precision="no", validate_every=4,
        validation_images=1, checkpoint_every=4,
    )  # fmt: skip
    tiny_pixel_pipeline(name).save_pretrained(tmp_path / "pixel")
    seen = {}

    def look(step, pipe):
        seen["in training"] = hidden_states(load_encoders_of(pipe, tmp_path / "pixel"))
        return {}

    report = transfer(tmp_path / "pixel", images, tmp_path / "run", config=config, on_validate=look)
    model = load_pipeline(report.model)
    torch.testing.assert_close(hidden_states(model), seen["in training"], atol=1e-5, rtol=1e-5)
    assert not any(map(is_lora, dict(model.transformer.named_parameters())))

    average = load_file(newest_folder(tmp_path / "run" / "checkpoints") / "average.safetensors")
    before, after = weights_of(tmp_path / "pixel"), weights_of(report.model)
    for key in [key for key in average if ".lora_B." in key]:
        layer = key.removesuffix(".lora_B.default.weight")
        product = average[key] @ average[f"{layer}.lora_A.default.weight"]
        expected = before[f"{layer}.weight"] + ALPHA / RANK * product
        torch.testing.assert_close(after[f"{layer}.weight"], expected, atol=1e-7, rtol=1e-6)
        assert not torch.equal(after[f"{layer}.weight"], before[f"{layer}.weight"])

    shallow = {key: value for key, value in average.items() if not is_lora(key)}
    (tmp_path / "shallow").mkdir()
    merge_pipeline(tmp_path / "pixel", tmp_path / "shallow", shallow, parts=["transformer"])
    pipe = load_pipeline(tmp_path / "shallow")
    assert not torch.allclose(hidden_states(pipe), seen["in training"], atol=1e-3)
    pipe.load_lora_weights(tmp_path / "run" / "lora")
    torch.testing.assert_close(hidden_states(pipe), hidden_states(model), atol=1e-5, rtol=1e-5)


def load_encoders_of(pipe, folder):
    """Return a pipeline of the same transformer that can encode: in training it has no text encoder."""
    whole = load_pipeline(folder)
    whole.transformer = pipe.transformer
    return whole


def test_merged_run_is_the_model_that_training_left(images, tmp_path):  # noqa: F811 (the fixture)
    """In bfloat16, with small frozen weights: the LoRA is added to those that the base stores."""
    pytest.importorskip("torchao")
    pipe = tiny_pixel_pipeline("z_image")
    pipe.transformer.to(torch.bfloat16)
    pipe.save_pretrained(tmp_path / "pixel")
    config = replace(CONFIG, lora_rank=RANK, lora_alpha=ALPHA, frozen_weights="int8", learning_rate=1e-2)
    lines = []
    report = transfer(tmp_path / "pixel", images, tmp_path / "run", config=config, announce=lines.append)
    assert "a LoRA of rank 2 on all blocks" in lines[0]
    assert_equal_models(merge(tmp_path / "run", tmp_path / "out"), report.model)
    before, after = weights_of(tmp_path / "pixel"), weights_of(tmp_path / "out")
    average = load_file(newest_folder(tmp_path / "run" / "checkpoints") / "average.safetensors")
    name = "layers.1.attention.to_q"
    product = average[f"{name}.lora_B.default.weight"] @ average[f"{name}.lora_A.default.weight"]
    expected = (before[f"{name}.weight"].float() + ALPHA / RANK * product).bfloat16()
    assert torch.equal(after[f"{name}.weight"], expected)
    frozen = [key for key in before if key.startswith("noise_refiner")]
    assert frozen
    assert all(torch.equal(after[key], before[key]) for key in frozen)

    first = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    lora = tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors"
    old = load_file(lora)
    transfer(tmp_path / "pixel", images, tmp_path / "run", config=replace(config, steps=first["steps"] + 1))
    assert not torch.equal(
        load_file(lora)[f"transformer.{name}.lora_B.weight"], old[f"transformer.{name}.lora_B.weight"]
    )

    alone = shutil.copytree(newest_folder(tmp_path / "run" / "checkpoints"), tmp_path / "a" / "b" / "step-00000005")
    with pytest.raises(StateError, match="scale of the checkpoint's LoRA"):
        merge(alone, tmp_path / "other", base=tmp_path / "pixel")
    assert not (tmp_path / "other").exists()
