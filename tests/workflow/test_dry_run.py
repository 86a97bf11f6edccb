"""The dry run of a training: every family, without a weight."""

import json
from pathlib import Path

import pytest
from tests.tiny import FAMILIES, PROMPTS, full_prompts, patch_px, save_tiny_pipeline, tiny_lift, tiny_pixel_pipeline
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import GeometryError
from latent2pixel.families import family_of
from latent2pixel.train import TrainConfig
from latent2pixel.workflow.dry_run import dry_run
from latent2pixel.workflow.encode_shapes import encode_shapes


def save_pixel_pipeline(name: str, folder: Path, **options: object) -> Path:
    tiny_pixel_pipeline(name, **options).save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    """Records alone: no picture is opened."""
    folder = tmp_path / "images"
    folder.mkdir()
    records = [{"file_name": f"{index}.png", "prompt": prompt} for index, prompt in enumerate(PROMPTS)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_estimated_without_a_weight(name, tmp_path, images):
    folder = save_pixel_pipeline(name, tmp_path / "pixel")
    pipe, prompt = tiny_pixel_pipeline(name), full_prompts(name)[1]
    (real,) = family_of(pipe.transformer).encode(pipe, [prompt])
    shapes = encode_shapes(
        folder, prompt, transformer=pipe.transformer, mode=FakeTensorMode(allow_non_fake_inputs=True)
    )
    assert {key: (value.shape, value.dtype) for key, value in shapes.items()} == {
        key: (value.shape, value.dtype) for key, value in real.items()
    }
    config = TrainConfig(image_size_px=4 * patch_px(name), num_blocks=1, batch_size=2)
    found = dry_run(folder, images, config=config, cards_gb=[24])["memory"]["activations"]
    assert found["stored"]["images"] == 2
    assert found["stored"]["parts"]["activations"] > 0
    if "checkpointed" in found:
        assert found["checkpointed"]["parts"]["activations"] <= found["stored"]["parts"]["activations"]


def test_sizes_beyond_the_positions_are_refused(tmp_path, images):
    """The tiny source has 64 x 64 positions, at 16 px each."""
    folder = save_pixel_pipeline("z_image", tmp_path / "pixel")
    with pytest.raises(GeometryError, match="at most 64 x 64 tokens"):
        dry_run(folder, images, config=TrainConfig(image_size_px=65 * 16, num_blocks=1, batch_size=1), cards_gb=[24])


def run(*arguments: object) -> object:
    # Settings of the run, at a size that shows in thousandths of a GiB.
    sizes = ["--set", "image_size_px=256", "--set", "num_blocks=1", "--set", "batch_size=8"]
    return CliRunner().invoke(app, ["train", *map(str, arguments), "--dry-run", *sizes], catch_exceptions=False)


def test_command_counts_teacher_and_vae_of_the_objective_source(tmp_path, images):
    source = save_tiny_pipeline("z_image", tmp_path / "source")
    pixel = save_pixel_pipeline("z_image", tmp_path / "pixel", lift=tiny_lift())
    arguments = (pixel, images, tmp_path / "out", "--source", source, "--json", "--card-gb", "24", "--card-gb", "1.6")
    towards = {
        objective: json.loads(run(*arguments, "--set", f"objective={objective}").stdout)
        for objective in ("source", "images")
    }
    assert towards["source"]["settings"]["objective"] == "source"
    ways = {objective: found["memory"]["activations"]["checkpointed"] for objective, found in towards.items()}
    # The VAE sees full-size images.
    assert ways["source"]["parts"]["transient"] > ways["images"]["parts"]["transient"]
    assert set(ways["source"]["largest_batch"]) == {"24", "1.6"}
    assert ways["source"]["largest_batch"]["1.6"] < ways["source"]["largest_batch"]["24"]
    assert towards["source"]["memory"]["longest_prompt"] == max(PROMPTS, key=len)
    assert not (tmp_path / "out").exists()


def test_command_counts_a_lora(tmp_path, images):
    pytest.importorskip("peft")
    pixel = save_pixel_pipeline("z_image", tmp_path / "pixel")
    arguments = (pixel, images, tmp_path / "out", "--json", "--card-gb", "24", "--set", "num_blocks=2")
    full, low = (
        json.loads(run(*arguments, "--set", f"lora_rank={rank}").stdout)["memory"]["activations"]["stored"]["parts"]
        for rank in (0, 2)
    )
    assert 0 < low["trained_weights"] < full["trained_weights"]
    assert low["frozen_weights"] > full["frozen_weights"]


def test_command_prints_settings_and_a_table(tmp_path, images):
    pixel = save_pixel_pipeline("z_image", tmp_path / "pixel")
    shown = run(pixel, images, tmp_path / "out", "--card-gb", "24").stdout
    settings, end = json.JSONDecoder().raw_decode(shown)
    assert settings["num_blocks"] == 1
    rows = shown[end:].splitlines()
    assert [row.split()[0] for row in rows if row.startswith(("frozen", "peak", "24 GB card"))] == [
        "frozen",
        "peak",
        "24",
    ]


def test_settings_of_the_run_change_its_memory(tmp_path, images):
    pixel = save_pixel_pipeline("z_image", tmp_path / "pixel")
    common = {"image_size_px": 64, "num_blocks": 1, "ema_decay": 0.9}

    def parts(**settings: object) -> dict[str, float]:
        config = TrainConfig(**common, **settings)
        found = dry_run(pixel, images, config=config, cards_gb=[24])["memory"]
        return found["activations"]["stored"]["parts"]

    plain, small = parts(), parts(frozen_weights="int8", optimizer="adamw_8bit", freezing="output")
    assert plain["average"] == plain["trained_weights"]
    assert small["frozen_weights"] < plain["frozen_weights"]
    assert small["optimizer_state"] < plain["optimizer_state"]


def test_more_processes_and_micro_batches_leave_fewer_images_at_a_time(tmp_path, images):
    pixel = save_pixel_pipeline("z_image", tmp_path / "pixel")
    config = TrainConfig(image_size_px=64, num_blocks=1, batch_size=16, accumulation_steps=2)
    found = dry_run(pixel, images, config=config, cards_gb=[24], num_processes=4)["memory"]["activations"]
    assert {way["images"] for way in found.values()} == {2}
