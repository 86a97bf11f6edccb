"""The training job on a tiny converted model and four pictures."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import PROMPTS, save_tiny_pipeline, tiny_lift, tiny_pixel_pipeline

from latent2pixel.config import build_config, load_yaml
from latent2pixel.convert.ladder import climb
from latent2pixel.convert.record import RECORD_NAME
from latent2pixel.errors import ConfigError, GeometryError, StateError
from latent2pixel.generate import load_pipeline
from latent2pixel.io.images import save_image
from latent2pixel.io.records import read_records, write_records
from latent2pixel.train import TrainConfig
from latent2pixel.train.for_model import rate_factor_of
from latent2pixel.workflow.transfer import recipe_of, transfer

CONFIG = TrainConfig(
    steps=2, batch_size=2, image_size_px=32, num_blocks=1, precision="no", validate_every=0, validation_steps=1,
    learning_rate=1e-3, num_workers=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    tiny_pixel_pipeline("z_image").save_pretrained(folder / "pixel")
    generator = torch.Generator().manual_seed(0)
    records = []
    for index in range(4):
        save_image(folder / "images" / f"{index}.png", torch.rand(3, 32, 32, generator=generator) * 2 - 1)
        records.append({"file_name": f"{index}.png", "prompt": PROMPTS[index % 2], "seed": index})
    write_records(folder / "images" / "metadata.jsonl", records)
    return folder / "pixel", folder / "images"


def weights(model: Path) -> torch.Tensor:
    return load_pipeline(model).transformer.head.out_conv.weight


@pytest.mark.parametrize(("size_px", "buckets"), [(65 * 16, False), (60 * 16, True)])
def test_images_beyond_the_positions_are_refused_before_the_run(parts, tmp_path, size_px, buckets):
    """The tiny source has 64 x 64 positions; of buckets, the long side of the widest one counts."""
    config = replace(CONFIG, image_size_px=size_px, aspect_buckets=buckets)
    with pytest.raises(GeometryError, match="at most 64 x 64 tokens"):
        transfer(parts[0], parts[1], tmp_path / "run", config=config)
    assert not (tmp_path / "run").exists()


def test_unreadable_image_is_skipped_and_named(parts, tmp_path):
    model, images = parts
    broken = tmp_path / "images"
    broken.mkdir()
    for file in images.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 40 if file.name == "2.png" else None])
    report = transfer(model, broken, tmp_path / "run", config=CONFIG)
    assert len(report.skipped_images) == 1
    assert "2.png" in report.skipped_images[0]
    assert len(report.training.losses) == 2


def test_a_source_that_reads_images_is_told_of_them(parts, tmp_path):
    """Once for each image, kept beside the prompts; for other sources nothing is made."""
    _, images = parts
    tiny_pixel_pipeline("glm").save_pretrained(tmp_path / "pixel")
    report = transfer(tmp_path / "pixel", images, tmp_path / "run", config=CONFIG)
    assert all(0 < loss < 10 for _, loss in report.training.losses)
    (cache,) = (tmp_path / "run" / "told").iterdir()
    told = load_file(cache / "embeddings.safetensors")
    assert sorted(told) == [f"{index}/prior_token_id" for index in range(4)]
    assert all(codes_L.shape == (4,) for codes_L in told.values())  # 32 px: 2 x 2 tokens
    transfer(*parts, tmp_path / "other", config=CONFIG)
    assert not (tmp_path / "other" / "told").exists()
    with pytest.raises(ConfigError, match="told of the images as they are"):
        transfer(tmp_path / "pixel", images, tmp_path / "flipped", config=replace(CONFIG, horizontal_flip=True))
    assert not (tmp_path / "flipped").exists()


def test_run_that_goes_on_saves_its_newer_model(parts, tmp_path):
    """Failed once: the model of fewer steps stayed."""
    first = weights(transfer(*parts, tmp_path, config=CONFIG).model)
    again = weights(transfer(*parts, tmp_path, config=CONFIG).model)
    further = weights(transfer(*parts, tmp_path, config=replace(CONFIG, steps=4)).model)
    assert torch.equal(first, again)
    assert not torch.equal(first, further)


def test_run_yaml_repeats_the_run(parts, tmp_path):
    report = transfer(*parts, tmp_path / "first", config=CONFIG)
    stored = build_config(TrainConfig, load_yaml(tmp_path / "first" / "run.yaml")["train"])
    assert transfer(*parts, tmp_path / "second", config=stored).training.losses == report.training.losses


def test_data_are_part_of_the_run(parts, tmp_path):
    """Mixed folders are recorded, changed records and other shares are refused."""
    model, images = parts
    more = shutil.copytree(images, tmp_path / "more")
    transfer(model, images, tmp_path / "run", config=CONFIG, mix={more: 0.25})
    assert load_yaml(tmp_path / "run" / "run.yaml")["mix"] == {str(more): 0.25}
    assert len(read_records(tmp_path / "run" / "images.jsonl")) == 8
    with pytest.raises(StateError, match=f"mix.{more} = 0.5"):
        transfer(model, images, tmp_path / "run", config=CONFIG, mix={more: 0.5})
    write_records(more / "metadata.jsonl", read_records(more / "metadata.jsonl")[:3])
    with pytest.raises(StateError, match="data have changed"):
        transfer(model, images, tmp_path / "run", config=CONFIG, mix={more: 0.25})


def test_images_of_any_aspect_from_workers_with_one_damaged(parts, tmp_path):
    """Buckets of 32 px and a patch of 16 are 32 x 32, 48 x 32, 32 x 48, 48 x 16 and 16 x 48."""
    generator, records, folder = torch.Generator().manual_seed(0), [], tmp_path / "images"
    for index, (height, width) in enumerate([(32, 32), (40, 33), (64, 96), (48, 32), (32, 48), (33, 50)]):
        save_image(folder / f"{index}.png", torch.rand(3, height, width, generator=generator) * 2 - 1)
        records.append(
            {"file_name": f"{index}.png", "prompt": PROMPTS[index % 2], "seed": index, "weight": 1 + index % 2}
        )
    write_records(folder / "metadata.jsonl", records)
    whole = bytearray((folder / "5.png").read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    (folder / "5.png").write_bytes(whole)
    config = replace(CONFIG, steps=8, aspect_buckets=True, horizontal_flip=True)
    alone = transfer(parts[0], folder, tmp_path / "alone", config=config)
    assert ["5.png" in reason for reason in alone.skipped_images] == [True]
    transfer(parts[0], folder, tmp_path / "workers", config=replace(config, steps=5, num_workers=2))
    ahead = transfer(parts[0], folder, tmp_path / "workers", config=replace(config, num_workers=1))
    assert ahead.training.losses == alone.training.losses


def test_trained_model_loads_with_plain_diffusers(parts, tmp_path):
    model = transfer(*parts, tmp_path, config=CONFIG).model
    code = """import sys, latent2pixel
from diffusers import DiffusionPipeline
print(type(DiffusionPipeline.from_pretrained(sys.argv[1])))"""
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True)
    assert "ZImagePipeline" in done.stdout


def test_other_settings_are_refused_by_name(parts, tmp_path):
    transfer(*parts, tmp_path, config=CONFIG)
    with pytest.raises(StateError, match=r"train\.learning_rate"):
        transfer(*parts, tmp_path, config=replace(CONFIG, learning_rate=1e-4))


def test_size_that_does_not_divide_is_refused(parts, tmp_path):
    with pytest.raises(GeometryError, match="multiple of the model's patch size 16"):
        transfer(*parts, tmp_path / "run", config=replace(CONFIG, image_size_px=40))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def lifted(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lifted")
    source = save_tiny_pipeline("z_image", folder / "source")
    pipe = tiny_pixel_pipeline("z_image", lift=tiny_lift())
    pipe.save_pretrained(folder / "pixel")
    return source, folder / "pixel", parts[1]


SOURCE_CONFIG = replace(CONFIG, objective="source", trunk_rate_factor=None)


def test_objective_source_trains_and_records_its_rate(lifted, tmp_path):
    source, model, images = lifted
    report = transfer(model, images, tmp_path / "run", config=SOURCE_CONFIG, source=source)
    assert len(report.training.losses) == 2
    recorded = load_yaml(tmp_path / "run" / "run.yaml")["train"]
    assert recorded["trunk_rate_factor"] == pytest.approx(
        rate_factor_of(load_pipeline(model).transformer, SOURCE_CONFIG)
    )
    again = transfer(model, images, tmp_path / "run", config=build_config(TrainConfig, recorded), source=source)
    assert again.training.losses == report.training.losses
    with pytest.raises(StateError, match="for its teacher"):
        transfer(report.model, images, tmp_path / "next", config=SOURCE_CONFIG, source=source)
    assert not (tmp_path / "next").exists()


def test_objective_source_finds_the_source_in_the_conversions_record(lifted, tmp_path):
    source, model, images = lifted
    with pytest.raises(ConfigError, match="needs the latent model"):
        transfer(model, images, tmp_path / "run", config=SOURCE_CONFIG)
    converted = shutil.copytree(model, tmp_path / "pixel")
    assert recipe_of(converted) == "paper"
    (converted / RECORD_NAME).write_text(json.dumps({"source": str(source), "lift": {}}))
    assert recipe_of(converted) == "lift"
    assert transfer(converted, images, tmp_path / "run", config=SOURCE_CONFIG).training.steps == 2


def test_objective_source_sees_the_latents_of_a_doubled_patch(lifted, tmp_path):
    """The source's VAE must see the images at half their size: one latent token for each larger patch."""
    source, model, images = lifted
    doubled = climb(model, tmp_path / "doubled").folder
    report = transfer(doubled, images, tmp_path / "run", config=SOURCE_CONFIG, source=source)
    assert len(report.training.losses) == 2
