"""Conversion from folder to folder: result, repetition, and every error a user can cause."""

import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.tiny import EXAMPLES, FAMILIES, HEAD, PROMPTS, patch_px, save_tiny_pipeline, tiny_pipeline

from latent2pixel.convert import build_pixel_pipeline, convert
from latent2pixel.errors import (
    CheckpointError,
    ConfigError,
    GeometryError,
    OutputFolderError,
    SourceError,
    UnsupportedFamilyError,
)
from latent2pixel.families import load_family
from latent2pixel.generate import load_pipeline

OPTIONS = {"head": HEAD, "num_blocks": 1}


@pytest.fixture(scope="module", params=EXAMPLES)
def source(request, tmp_path_factory):
    return save_tiny_pipeline(request.param, tmp_path_factory.mktemp(request.param) / "source")


@pytest.fixture
def broken(source, tmp_path):
    """A copy of the source that a test may damage."""
    return shutil.copytree(source, tmp_path / "broken")


def generate(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    # A copy: the stock pipeline writes its chat template into the list that it is given.
    return pipe(list(PROMPTS), height=32, width=48, num_inference_steps=2, guidance_scale=2.0, generator=generator,
                output_type="np").images  # fmt: skip


def assert_equal_images(first, second):
    # Not bit for bit: memory-mapped weights lie at other addresses, where CPU kernels sum in another order.
    np.testing.assert_allclose(first, second, atol=1e-5, rtol=0)


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_converted_folder_loads_with_plain_diffusers_in_a_fresh_process(source, tmp_path):
    report = convert(source, tmp_path / "out", **OPTIONS)
    images = generate(load_pipeline(report.folder))
    script = (
        "import sys, numpy, torch, latent2pixel\n"
        "from diffusers import DiffusionPipeline\n"
        "sys.path.insert(0, '.')\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(report.folder)!r})\n"
        "from tests.convert.test_convert import generate\n"
        f"numpy.save({str(tmp_path / 'images.npy')!r}, generate(pipe))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert_equal_images(np.load(tmp_path / "images.npy"), images)


def test_conversion_equals_build_in_memory(source, tmp_path):
    convert(source, tmp_path / "out", seed=3, **OPTIONS)
    from diffusers import DiffusionPipeline

    in_memory = build_pixel_pipeline(DiffusionPipeline.from_pretrained(source), head=HEAD, seed=3)
    on_disk = load_pipeline(tmp_path / "out")
    weights, loaded = in_memory.transformer.state_dict(), on_disk.transformer.state_dict()
    assert weights.keys() == loaded.keys()
    assert all(torch.equal(weights[key], loaded[key]) for key in weights)
    assert_equal_images(generate(on_disk), generate(in_memory))


def test_report_and_record(source, tmp_path):
    report = convert(source, tmp_path / "out", **OPTIONS)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["source"] == str(source)
    assert record["plan"] == report.plan.counts()
    assert record["trainable"]["parameters"] == report.trainable.num_trainable
    assert record["settings"]["recipe"] == "paper"
    assert "input_map" not in record["settings"]
    stored = record["settings"]["source_files"]["transformer/diffusion_pytorch_model.safetensors"]
    assert stored["bytes"] == (source / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    pipe = load_pipeline(tmp_path / "out")
    assert len(pipe.transformer.state_dict()) == record["plan"]["kept"]["tensors"] + record["plan"]["new"]["tensors"]


def test_released_recipe_trains_more(source, tmp_path):
    paper, released = (convert(source, tmp_path / recipe, recipe=recipe, **OPTIONS) for recipe in ("paper", "released"))
    assert paper.trainable.share < released.trainable.share


def test_same_command_again_returns_at_once(source, tmp_path):
    first = convert(source, tmp_path / "out", **OPTIONS)
    times = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = convert(source, tmp_path / "out", **OPTIONS)
    assert not first.already_there
    assert again.already_there
    assert again.plan == first.plan
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == times


def test_dtype_is_kept_or_set(source, tmp_path):
    half = tmp_path / "half"
    pipe = tiny_pipeline("z_image").to(torch.bfloat16)
    pipe.save_pretrained(half)
    convert(half, tmp_path / "kept", **OPTIONS)
    assert load_pipeline(tmp_path / "kept").transformer.dtype == torch.bfloat16
    convert(source, tmp_path / "set", torch_dtype=torch.bfloat16, **OPTIONS)
    pipe = load_pipeline(tmp_path / "set")
    assert pipe.transformer.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert load_pipeline(tmp_path / "set", torch_dtype=torch.float32).transformer.dtype == torch.float32


def test_patch_64_with_the_4k_heads_six_levels(source, tmp_path):
    convert(source, tmp_path / "out", patch_size=64, head=(2, 2, 4, 4, 4, 4), num_blocks=1)
    pipe = load_pipeline(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.vae.config["factor"] == 32
    assert pipe(PROMPTS[0], height=128, width=64, num_inference_steps=1).images[0].size == (64, 128)


# -- output folder


def test_other_settings_do_not_overwrite(source, tmp_path):
    convert(source, tmp_path / "out", **OPTIONS)
    with pytest.raises(OutputFolderError, match="exists already") as caught:
        convert(source, tmp_path / "out", seed=1, **OPTIONS)
    assert caught.value.found == "a conversion with other seed"


def test_retrained_source_of_equal_size_is_another_source(source, broken, tmp_path):
    convert(source, tmp_path / "out", **OPTIONS)
    tiny_pipeline("z_image", seed=1).save_pretrained(broken)
    with pytest.raises(OutputFolderError, match="source_files"):
        convert(broken, tmp_path / "out", **OPTIONS)


def test_foreign_content_is_left_alone(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputFolderError, match="other files"):
        convert(source, out, **OPTIONS)
    with pytest.raises(OutputFolderError, match="a file"):
        convert(source, out / "thesis.txt", **OPTIONS)
    with pytest.raises(OutputFolderError, match="cannot be written"):
        convert(source, out / "thesis.txt" / "model", **OPTIONS)
    assert files_below(tmp_path) == ["out", "out/thesis.txt"]


def test_empty_folder_is_used(source, tmp_path):
    (tmp_path / "out").mkdir()
    assert (convert(source, tmp_path / "out", **OPTIONS).folder / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("failure", "caught"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputFolderError),
        (PermissionError(errno.EACCES, "Permission denied"), OutputFolderError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_failed_writing_leaves_nothing(source, tmp_path, monkeypatch, failure, caught):
    from diffusers import SchedulerMixin

    def fail(*_arguments, **_options):
        raise failure

    monkeypatch.setattr(SchedulerMixin, "save_pretrained", fail)
    with pytest.raises(caught):
        convert(source, tmp_path / "out", **OPTIONS)
    assert files_below(tmp_path) == []


def test_full_disk_of_the_operating_system(source, tmp_path):
    """A real limit on file sizes stands in for a full disk: safetensors reports both in its own error type."""
    script = (
        "import resource\n"
        "from latent2pixel.convert import convert\n"
        "from latent2pixel.errors import OutputFolderError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try:\n"
        f"    convert({str(source)!r}, {str(tmp_path / 'out')!r}, head={HEAD}, num_blocks=1)\n"
        "except OutputFolderError as error:\n"
        "    print(error.problem)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "The disk is full; nothing was kept\n"
    assert files_below(tmp_path) == []


# -- source


def test_source_that_does_not_exist(tmp_path):
    for name in (tmp_path / "nothing", "./nothing", "a/b/c"):
        with pytest.raises(SourceError, match="cannot be found"):
            convert(name, tmp_path / "out")


def test_hub_id_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="cannot be found") as caught:
        convert("nobody/has-this-model", tmp_path / "out")
    assert "hf auth login" in caught.value.fix


def test_part_instead_of_pipeline(source, tmp_path):
    with pytest.raises(SourceError, match="no diffusers pipeline") as caught:
        convert(source / "transformer", tmp_path / "out")
    assert caught.value.found == "no model_index.json, but a config.json"


def test_pixel_pipeline_as_source(source, tmp_path):
    convert(source, tmp_path / "out", **OPTIONS)
    with pytest.raises(SourceError, match="pixel model already"):
        convert(tmp_path / "out", tmp_path / "again")
    with pytest.raises(SourceError, match="pixel model already"):
        build_pixel_pipeline(load_pipeline(tmp_path / "out"))


@pytest.mark.parametrize("transformer", [None, ["diffusers", "HunyuanVideoTransformer3DModel"]])
def test_unsupported_source(broken, tmp_path, transformer):
    index = json.loads((broken / "model_index.json").read_text())
    index["transformer"] = transformer
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedFamilyError):
        convert(broken, tmp_path / "out")


def test_truncated_weights(broken, tmp_path):
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not complete") as caught:
        convert(broken, tmp_path / "out", **OPTIONS)
    assert str(path) in caught.value.problem
    assert {path.split("/")[0] for path in files_below(tmp_path)} == {"broken"}


def test_weights_that_do_not_fit_their_configuration(broken, tmp_path):
    path = broken / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "n_layers": config["n_layers"] + 1}))
    with pytest.raises(CheckpointError, match="keys missing"):
        convert(broken, tmp_path / "out", **OPTIONS)


# -- settings


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_shift_of_the_published_4k_model(name):
    """Chosen at conversion, so that training and sampling both have it; sources that cannot choose say so."""
    family, source = load_family(name), tiny_pipeline(name)
    options = {"head": HEAD, "patch_size": patch_px(name)}
    if family.objective != "flow" or family.clock_shift(4096) is not None:
        with pytest.raises(SourceError, match="noise shift"):
            build_pixel_pipeline(source, **options, noise_shift=4.0)
        return
    pipe = build_pixel_pipeline(source, **options, noise_shift=4.0)
    assert family.shift(pipe.scheduler, 4096) == pytest.approx(4.0)
    # Without it the source's stays, as published at 1K; and the source's own scheduler is left alone.
    assert family.shift(source.scheduler, 4096) == family.shift(tiny_pipeline(name).scheduler, 4096)
    kept = build_pixel_pipeline(source, **options)
    assert family.shift(kept.scheduler, 4096) == family.shift(family.scheduler(source), 4096)


def test_noise_shift_is_recorded_and_another_one_refused(source, tmp_path):
    report = convert(source, tmp_path / "out", **OPTIONS, noise_shift=4.0)
    assert json.loads((report.folder / "scheduler" / "scheduler_config.json").read_text())["shift"] == 4.0
    assert json.loads((report.folder / "conversion.json").read_text())["settings"]["noise_shift"] == 4.0
    with pytest.raises(OutputFolderError, match="noise_shift"):
        convert(source, tmp_path / "out", **OPTIONS)


def test_patch_and_head_that_do_not_fit(source, tmp_path):
    with pytest.raises(GeometryError, match="patch size 24"):
        convert(source, tmp_path / "out", patch_size=24)
    with pytest.raises(GeometryError, match="deeper than the patch"):
        convert(source, tmp_path / "out", patch_size=8)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "papers"},
        {"head": "2k"},
        {"head_feature_norm": "l2"},
        {"num_blocks": 9},
        {"input_map": "procrustean"},
    ],
)
def test_settings_that_do_not_exist(source, tmp_path, options):
    with pytest.raises(ConfigError):
        convert(source, tmp_path / "out", **{**OPTIONS, **options})
