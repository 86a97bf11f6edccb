"""Loading pixel pipelines, and what is wrong with folders that are none."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from tests.tiny import HEAD, save_tiny_pipeline

from latent2pixel.convert import convert
from latent2pixel.errors import CheckpointError, SourceError
from latent2pixel.generate import load_pipeline


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    return convert(save_tiny_pipeline("z_image", folder / "source"), folder / "pixel", head=HEAD, num_blocks=1).folder


@pytest.fixture
def broken(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "broken")


def test_loads(converted):
    import latent2pixel

    pipe = load_pipeline(str(converted))
    assert type(pipe.transformer) is latent2pixel.ZImagePixelTransformer2DModel
    assert type(pipe.vae) is latent2pixel.PixelVAE


def test_latent_pipeline_is_named_as_such(converted):
    with pytest.raises(SourceError, match="no pixel pipeline") as caught:
        load_pipeline(converted.parent / "source")
    assert "l2p convert" in caught.value.fix


def test_missing_part(broken):
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(CheckpointError, match="'tokenizer' is missing"):
        load_pipeline(broken)


def test_missing_weights(broken):
    (broken / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="'text_encoder' has no weights"):
        load_pipeline(broken)


def test_missing_shard(broken):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (broken / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"missing model-00001-of-00002\.safetensors"):
        load_pipeline(broken)


@pytest.mark.parametrize("size", [3, 200, -10])
def test_truncated_weights(broken, size):
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="not complete"):
        load_pipeline(broken)


def test_weights_that_are_no_safetensors(broken):
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes((16).to_bytes(8, "little") + b"<html>not found</html>")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_pipeline(broken)


@pytest.mark.parametrize("change", [{"n_layers": 3}, {"n_layers": 5}, {"cap_feat_dim": 48}, {"head_channels": [4] * 4}])
def test_weights_of_another_configuration_are_never_filled_in_silently(broken, change):
    path = broken / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError):
        load_pipeline(broken)


def test_configuration_that_cannot_be_read(broken):
    (broken / "transformer" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_pipeline(broken)


def test_index_that_cannot_be_read(broken):
    for text in ("{", "[]"):
        (broken / "model_index.json").write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_pipeline(broken)


def test_pipeline_class_that_diffusers_does_not_have(broken):
    path = broken / "model_index.json"
    path.write_text(path.read_text().replace("ZImagePipeline", "ZImage9Pipeline"))
    with pytest.raises(SourceError, match="no such pipeline"):
        load_pipeline(broken)


def test_importing_the_package_is_light():
    script = (
        "import sys, latent2pixel\n"
        "latent2pixel.__version__, latent2pixel.L2PError, dir(latent2pixel)\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_every_export_can_be_loaded():
    import latent2pixel

    for name in dir(latent2pixel):
        assert getattr(latent2pixel, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        latent2pixel.convrt  # noqa: B018


def test_hub_id_loads_in_a_fresh_process(converted, tmp_path):
    """From the Hub's local cache, laid out as the Hub's library lays it out; no network."""
    revision = "0" * 40
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    shutil.copytree(converted, repository / "snapshots" / revision)
    code = "import latent2pixel; print(type(latent2pixel.load_pipeline('owner/name').transformer).__name__)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "ZImagePixelTransformer2DModel", done.stderr[-1000:]
