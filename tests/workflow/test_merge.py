"""A run's checkpoint and its base become the pipeline that the run itself would have left."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import PROMPTS, noise, tiny_pixel_pipeline
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import CheckpointError, ConfigError, OutputFolderError, SourceError, StateError
from latent2pixel.generate import load_pipeline
from latent2pixel.io.images import save_image
from latent2pixel.io.records import write_records
from latent2pixel.train import TrainConfig
from latent2pixel.workflow.merge import merge
from latent2pixel.workflow.transfer import transfer

CONFIG = TrainConfig(
    steps=4, batch_size=2, image_size_px=32, num_blocks=1, validate_every=0, validation_steps=1, learning_rate=1e-3,
    checkpoint_every=2, ema_decay=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(2):
        save_image(folder / f"{index}.png", noise(3, 32, 32, seed=index).tanh())
    write_records(
        folder / "metadata.jsonl",
        [{"file_name": f"{index}.png", "prompt": PROMPTS[index], "seed": index} for index in range(2)],
    )
    return folder


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """A finished run of a bfloat16 model that keeps averaged weights."""
    folder = tmp_path_factory.mktemp("run")
    pipe = tiny_pixel_pipeline("z_image")
    pipe.transformer.to(torch.bfloat16)
    pipe.save_pretrained(folder / "pixel")
    transfer(folder / "pixel", images, folder / "run", config=CONFIG)
    return folder / "run"


def weights_of(model: Path, part: str = "transformer") -> dict:
    return {name: value for path in (model / part).glob("*.safetensors") for name, value in load_file(path).items()}


def assert_equal_models(found: Path, expected: Path) -> None:
    """Every tensor to the last bit, and every other file of the pipeline but for where it was loaded from."""
    files = {path.relative_to(expected) for path in expected.rglob("*") if path.is_file()}
    assert {path.relative_to(found) for path in found.rglob("*") if path.is_file()} == files
    for file in files:
        if file.name in ("model_index.json", "config.json"):
            contents = [json.loads((model / file).read_text()) for model in (found, expected)]
            for content in contents:
                content.pop("_name_or_path", None)
            assert contents[0] == contents[1], file
        elif file.suffix != ".safetensors":
            assert (found / file).read_bytes() == (expected / file).read_bytes(), file
    for part in {file.parts[0] for file in files if file.suffix == ".safetensors"}:
        tensors, others = weights_of(found, part), weights_of(expected, part)
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == others[name].dtype
            assert torch.equal(tensor, others[name]), name


def test_merged_run_is_the_model_that_training_left(run, tmp_path):
    assert_equal_models(merge(run, tmp_path / "out"), run / "model")
    before = weights_of(run.parent / "pixel")
    after = weights_of(tmp_path / "out")
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    newest = run / "checkpoints" / "step-00000004"
    average, last = (load_file(newest / f"{name}.safetensors") for name in ("average", "trainable"))
    # Steps too short for bfloat16 leave norms at one.
    assert {name for name in after if not torch.equal(after[name], before[name])} <= average.keys()
    assert all(torch.equal(after[name], average[name].bfloat16()) for name in average)
    assert not torch.equal(after["head.out_conv.weight"], last["head.out_conv.weight"].bfloat16())


def test_twins_take_the_weights_too(images, tmp_path):
    tiny_pixel_pipeline("ideogram4").save_pretrained(tmp_path / "pixel")
    report = transfer(tmp_path / "pixel", images, tmp_path / "run", config=replace(CONFIG, precision="no", shift=1.0))
    assert_equal_models(merge(tmp_path / "run", tmp_path / "out"), report.model)
    assert (tmp_path / "out" / "unconditional_transformer").is_dir()


def test_earlier_checkpoint_and_weights_without_average(run, tmp_path):
    earlier = shutil.copytree(run / "checkpoints" / "step-00000002", tmp_path / "run" / "checkpoints" / "step-00000002")
    (earlier / "average.safetensors").unlink()
    base = run.parent / "pixel"
    out = weights_of(merge(earlier, tmp_path / "out", base=base))
    expected = load_file(earlier / "trainable.safetensors")
    assert all(torch.equal(out[name], expected[name].bfloat16()) for name in expected)
    load_pipeline(tmp_path / "out")
    assert '"steps": 2' in (tmp_path / "out" / "training.json").read_text()


def test_what_does_not_fit_is_refused(run, tmp_path):
    with pytest.raises(StateError, match="holds no checkpoint"):
        merge(tmp_path, tmp_path / "out")
    with pytest.raises(OutputFolderError, match="holds something"):
        merge(run, run)
    moved = shutil.copytree(run, tmp_path / "run")
    (moved / "run.yaml").write_text((moved / "run.yaml").read_text().replace(str(run.parent), "/nowhere"))
    with pytest.raises(SourceError, match="--base"):
        merge(moved, tmp_path / "out")
    (moved / "run.yaml").unlink()
    with pytest.raises(SourceError, match=r"no run\.yaml"):
        merge(moved, tmp_path / "out")
    newest = moved / "checkpoints" / "step-00000004"
    (newest / "average.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be read"):
        merge(moved, tmp_path / "out", base=run.parent / "pixel")
    other = tiny_pixel_pipeline("z_image", head=(4, 4, 4, 8))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="do not belong"):
        merge(run, tmp_path / "out", base=tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_command(run, tmp_path):
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "out"), "--merge", str(run), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert str(tmp_path / "out") in done.stdout
    assert_equal_models(tmp_path / "out", run / "model")
    with pytest.raises(ConfigError, match="one folder"):
        CliRunner().invoke(app, ["convert", "a", "b", "--merge", str(run)], catch_exceptions=False)
    with pytest.raises(ConfigError, match="nothing else"):
        CliRunner().invoke(
            app, ["convert", "a", "--merge", str(run), "--from-released", "f.safetensors"], catch_exceptions=False
        )
