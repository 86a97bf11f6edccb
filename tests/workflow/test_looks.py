"""What a training job looks at: pictures beside the data's own, and the error on images that do not train."""

import json
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.tiny import tiny_pixel_pipeline
from tests.workflow.test_transfer import CONFIG

from latent2pixel.errors import ConfigError
from latent2pixel.io.images import load_image, save_image
from latent2pixel.io.records import write_records
from latent2pixel.train.checkpoint import best_error
from latent2pixel.train.validation import SIGMAS
from latent2pixel.workflow.looks import held_out
from latent2pixel.workflow.transfer import transfer


def test_held_out_prompts_are_spread_and_leave_some():
    prompts = [str(index // 2) for index in range(20)]
    assert held_out(prompts, 0) == set()
    assert held_out(prompts, 2) == {"0", "5"}
    assert held_out(prompts, 9) < set(prompts)
    with pytest.raises(ConfigError, match="leave none"):
        held_out(prompts, 10)


def test_pictures_stand_below_the_datas_own_and_held_out_images_do_not_train(tmp_path):
    tiny_pixel_pipeline("z_image").save_pretrained(tmp_path / "pixel")
    records = []
    for index, prompt in enumerate(["red circle", "red circle", "blue square", "blue square"]):
        image_CHW = torch.full((3, 32, 32), -1 + 0.5 * index)
        save_image(tmp_path / "images" / f"{index}.png", image_CHW)
        records.append({"file_name": f"{index}.png", "prompt": prompt, "seed": index})
    write_records(tmp_path / "images" / "metadata.jsonl", records)
    config = replace(CONFIG, steps=4, validate_every=2, validation_images=2, heldout_prompts=1, keep_checkpoints=1)
    out = tmp_path / "run"
    transfer(tmp_path / "pixel", tmp_path / "images", out, config=config)
    grid_CHW = load_image(out / "validation" / "step-00000004.png")
    assert grid_CHW.shape == (3, 2 * 32 + 2, 2 * 32 + 2)
    assert (grid_CHW[:, :32, :32] == -1).all()  # the held-out prompt is shown first, and its image above its picture
    assert grid_CHW[:, :32, 34:].abs().max() < 0.01
    assert grid_CHW[:, 34:].std() > 0
    (events,) = (out / "logs").rglob("events.*")
    board = EventAccumulator(str(events)).Reload()
    errors = [event.value for event in board.Scalars("validation error")]
    assert len(errors) == 2
    by_sigma = [board.Scalars(f"error at sigma {sigma}")[-1].value for sigma in SIGMAS]
    assert sum(by_sigma) / len(by_sigma) == pytest.approx(errors[-1], rel=1e-4)
    assert best_error(out / "checkpoints") == pytest.approx(min(errors), rel=1e-4)
    assert json.loads((out / "images.jsonl").read_text().splitlines()[0])
