"""What a folder is, told from its headers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import HEAD, save_tiny_pipeline, tiny_lift, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.convert import convert
from latent2pixel.convert.config import ConversionConfig
from latent2pixel.convert.convert import plan_folder, source_patch_px
from latent2pixel.convert.inspect import inspect
from latent2pixel.errors import CheckpointError, SourceError, UnsupportedFamilyError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny_pipeline("flux", tmp_path_factory.mktemp("sources") / "flux")


def test_source_and_its_pixel_model_agree(source, tmp_path):
    latent = inspect(source)
    convert(source, tmp_path / "pixel", num_blocks=2)
    pixel = inspect(tmp_path / "pixel")
    assert (latent.kind, pixel.kind) == ("latent source", "pixel model")
    assert latent.blocks == pixel.blocks == {"transformer_blocks": 2, "single_transformer_blocks": 2}
    assert latent.parameters == pixel.parameters
    assert latent.trainable_share == pixel.trainable_share
    assert latent.text_encoders == {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"}
    assert pixel.dtypes["transformer"] == "float32"
    assert (latent.family, latent.objective, latent.pixels_per_token) == ("flux", "flow", 16)


def test_lifted_model_tells_its_scale(tmp_path):
    tiny_pixel_pipeline("flux", lift=tiny_lift("flux")).save_pretrained(tmp_path)
    assert inspect(tmp_path).lift["scale"] == pytest.approx(2.5)


def test_default_patch_is_the_sources_own(source):
    assert source_patch_px(source) == 16
    plan, _ = plan_folder(source, ConversionConfig(head=HEAD))
    assert plan.new["x_embedder.weight"] == (48, 3 * 16**2)


def broken(source, folder, change):
    """Copy a folder's index with a change; nothing else is needed to be refused."""
    folder.mkdir()
    index = json.loads((source / "model_index.json").read_text())
    change(index)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_parts_of_two_families_are_refused(source, tmp_path):
    mixed = broken(source, tmp_path / "mixed", lambda index: index.update(_class_name="ZImagePipeline"))
    for refuse in (inspect, source_patch_px):
        with pytest.raises(SourceError, match="do not belong together") as caught:
            refuse(mixed)
        assert "FluxPipeline" in caught.value.expected


def test_unknown_transformer_is_refused(source, tmp_path):
    unknown = broken(
        source, tmp_path / "unknown", lambda index: index.update(transformer=["diffusers", "XTransformer"])
    )
    with pytest.raises(UnsupportedFamilyError, match="not supported yet"):
        inspect(unknown)


def test_missing_text_encoder_and_pickled_weights_are_refused(tmp_path):
    pipe = tiny_pipeline("flux")
    pipe.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(CheckpointError, match="no weights") as caught:
        inspect(tmp_path / "pickled")
    assert "safetensors" in caught.value.expected
    pipe.save_pretrained(tmp_path / "part")
    for file in (tmp_path / "part" / "text_encoder_2").iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match="'text_encoder_2' is missing"):
        inspect(tmp_path / "part")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_are_refused(tmp_path, dtype):
    """Failed once: they were converted as they are, into a model of noise."""
    source = save_tiny_pipeline("flux", tmp_path / "source")
    (file,) = (source / "transformer").glob("*.safetensors")
    state = load_file(file)
    save_file({key: value.to(dtype) if value.ndim > 1 else value for key, value in state.items()}, file)
    for refuse in (inspect, lambda folder: convert(folder, tmp_path / "pixel", head=HEAD)):
        with pytest.raises(CheckpointError, match="quantised") as caught:
            refuse(source)
        assert {torch.float8_e4m3fn: "F8_E4M3", torch.int8: "I8"}[dtype] in caught.value.found
    assert not (tmp_path / "pixel").exists()
