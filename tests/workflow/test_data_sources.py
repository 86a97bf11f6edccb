"""One training, several sources of data: made images, packed ones, real ones, and mixes of them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.data.pictures import noise
from tests.tiny import PROMPTS, tiny_pixel_pipeline
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.data.import_images import import_images
from latent2pixel.data.pack import pack
from latent2pixel.io.records import read_records, write_records
from latent2pixel.train import TrainConfig
from latent2pixel.workflow.transfer import transfer

CONFIG = TrainConfig(
    steps=3, batch_size=2, image_size_px=32, num_blocks=1, precision="no", validate_every=0, validation_steps=1,
    learning_rate=1e-3, num_workers=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return a model, made images, the same ones packed, and real ones."""
    folder = tmp_path_factory.mktemp("sources")
    tiny_pixel_pipeline("z_image").save_pretrained(folder / "pixel")
    (folder / "made" / "shard-00000").mkdir(parents=True)
    (folder / "photographs").mkdir()
    rows = ["file_name,text"]
    for number in range(4):
        noise(number, width=32, height=32).save(folder / "made" / "shard-00000" / f"{number}.png")
        noise(10 + number, width=64, height=48).save(folder / "photographs" / f"{number}.jpg")
        rows.append(f'{number}.jpg,"{PROMPTS[number % 2]}"')
    records = [
        {"file_name": f"{number}.png", "prompt": PROMPTS[number % 2], "seed": number, "origin": "source"}
        for number in range(4)
    ]
    write_records(folder / "made" / "shard-00000" / "metadata.jsonl", records)
    (folder / "photographs" / "metadata.csv").write_text("\n".join(rows))
    pack(folder / "made", folder / "packed", num_shards=2)
    import_images(folder / "photographs", folder / "real", size_px=32)
    return folder


def losses_of(parts, images, run, **options):
    return transfer(parts / "pixel", images, run, config=CONFIG, **options).training.losses


def test_a_packed_folder_trains_as_the_loose_one(parts, tmp_path):
    loose = losses_of(parts, parts / "made", tmp_path / "loose")
    assert losses_of(parts, parts / "packed", tmp_path / "packed") == loose
    listed = [record["path"] for record in read_records(tmp_path / "packed" / "images.jsonl")]
    assert listed[3] == f"{parts / 'packed' / 'data' / 'train-00001-of-00002.parquet'}#1"


def test_a_run_on_packed_images_goes_on(parts, tmp_path):
    whole = losses_of(parts, parts / "packed", tmp_path / "whole")
    transfer(parts / "pixel", parts / "packed", tmp_path / "run", config=replace(CONFIG, steps=2))
    assert losses_of(parts, parts / "packed", tmp_path / "run")[-1] == whole[-1]


def test_the_source_of_the_data_and_a_mix_are_one_argument(parts, tmp_path):
    made = losses_of(parts, parts / "made", tmp_path / "made")
    real = losses_of(parts, parts / "real", tmp_path / "real")
    assert real != made
    common = [str(parts / "pixel"), str(parts / "packed"), str(tmp_path / "mixed"), "--recipe", "paper"]
    settings = ["steps=2", "batch_size=2", "image_size_px=32", "num_blocks=1", "precision=no", "validate_every=0"]
    options = [part for setting in settings for part in ("--set", setting)]
    mix = ["--mix", f"{parts / 'real'}=0.5"]
    result = CliRunner().invoke(
        app, ["train", *common, *options, "--set", "warmup_steps=0", *mix], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    listed = [record["path"] for record in read_records(tmp_path / "mixed" / "images.jsonl")]
    assert [("real" in path, ".parquet#" in path) for path in listed] == [(False, True)] * 4 + [(True, False)] * 4


def test_a_source_that_reads_images_reads_packed_ones(parts, tmp_path):
    tiny_pixel_pipeline("glm").save_pretrained(tmp_path / "pixel")
    report = transfer(tmp_path / "pixel", parts / "packed", tmp_path / "run", config=CONFIG)
    assert all(0 < loss < 10 for _, loss in report.training.losses)
    assert (tmp_path / "run" / "told").is_dir()


def test_real_images_are_cropped_not_squeezed(parts):
    stored = Image.open(parts / "real" / "shard-00000" / "000000.png")
    photograph = Image.open(parts / "photographs" / "0.jpg")  # 64 x 48 px
    middle = photograph.resize((32, 32), Image.Resampling.LANCZOS, box=(8, 0, 56, 48))
    assert np.array_equal(stored, middle)
