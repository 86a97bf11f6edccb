import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.tiny import GRID, HEAD, PROMPTS, noise, tiny_lift, tiny_pipeline, tiny_pixel_pipeline
from tests.train.run_tiny import run

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.errors import ConfigError, StateError
from latent2pixel.families import load_family
from latent2pixel.model import freezing
from latent2pixel.model.predict import predict_tokens
from latent2pixel.train import TrainConfig, train
from latent2pixel.train.for_model import rate_factor_of, trained_names

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "tiny_losses.txt"


def start(out, steps):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    script = REPOSITORY / "tests" / "train" / "run_tiny.py"
    return subprocess.Popen([sys.executable, str(script), str(out), str(steps)], env=environment)


def losses(out):
    path = out / "losses.jsonl"
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()] if path.exists() else []


def test_killed_run_goes_on_with_the_same_losses_to_the_last_bit(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, 9).wait(timeout=120) == 0
    # Far more steps than are awaited, so that the kill hits a running training.
    process = start(broken, 100_000)
    deadline = time.monotonic() + 120
    while len(losses(broken)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = len(losses(broken))
    assert reached >= 5
    for path in sorted((broken / "checkpoints").glob("step-*"))[:-1]:
        assert path.name < f"step-{reached:08d}"
    steps = reached + 4
    assert start(broken, steps).wait(timeout=120) == 0
    reference = tmp_path / "reference"
    assert start(reference, steps).wait(timeout=300) == 0
    assert losses(broken) == losses(reference)
    assert losses(reference)[:9] == losses(whole)


def test_losses_follow_the_golden_curve(tmp_path):
    """A short run as text. Another CPU's rounding moves it by about 1e-6, a changed formula by far more."""
    torch.set_num_threads(1)
    run(tmp_path, 8)
    expected = [float(line) for line in GOLDEN.read_text().splitlines()]
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=2e-4)


def test_only_the_trainables_change(tmp_path):
    before = build_pixel_pipeline(tiny_pipeline("z_image"), patch_size=16, head=HEAD, seed=0).transformer
    start_weights = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    pipe, report = run(tmp_path, 3)
    names = freezing.trainable_names(pipe.transformer, preset="paper", num_blocks=1)
    after = pipe.transformer.state_dict()
    changed = {name for name in start_weights if not torch.equal(start_weights[name], after[name])}
    assert changed == set(names)
    assert report.share.num_trainable_tensors == len(names)


def test_run_is_left_with_the_averaged_weights(tmp_path):
    averaged, _ = run(tmp_path / "a", 4, ema_decay=0.9)
    plain, _ = run(tmp_path / "b", 4, ema_decay=0.0)
    name = "head.out_conv.weight"
    assert not torch.equal(averaged.transformer.state_dict()[name], plain.transformer.state_dict()[name])


def test_trunk_rate_scales_the_steps_of_kept_weights_alone(tmp_path):
    start_weights = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, seed=0).transformer.state_dict()
    moved = {}
    for factor in (1.0, 0.1):
        pipe, _ = run(
            tmp_path / str(factor), 1, trunk_rate_factor=factor, ema_decay=0.0, weight_decay=0.0, warmup_steps=0
        )
        after = pipe.transformer.state_dict()
        moved[factor] = {name: (after[name] - start_weights[name]).abs().max() for name in start_weights}
    block, head = "layers.0.attention.to_q.weight", "head.out_conv.weight"
    assert moved[0.1][head] == moved[1.0][head] > 0
    # AdamW's first step has the length of the rate, whatever the gradient
    torch.testing.assert_close(moved[0.1][block], 0.1 * moved[1.0][block], rtol=1e-2, atol=0)


def test_validation_picture_reaches_tensorboard(tmp_path):
    run(tmp_path, 2, validate=lambda _step, _pipe: torch.zeros(3, 8, 8), validate_every=1)
    (events,) = (tmp_path / "logs").rglob("events.*")
    board = EventAccumulator(str(events)).Reload()
    assert [event.step for event in board.Images("validation")] == [1, 2]
    assert [event.step for event in board.Scalars("loss")] == [1, 2]


def test_finished_run_is_not_trained_again(tmp_path):
    _, first = run(tmp_path, 4)
    _, second = run(tmp_path, 4)
    assert second.losses == first.losses
    assert second.steps == 4


def test_no_steps_leave_the_model_as_it_was(tmp_path):
    before = build_pixel_pipeline(tiny_pipeline("z_image"), patch_size=16, head=HEAD, seed=0).transformer.state_dict()
    pipe, report = run(tmp_path, 0, warmup_steps=0, cooldown_steps=0)
    assert report.losses == []
    assert all(torch.equal(value, before[name]) for name, value in pipe.transformer.state_dict().items())


def test_going_back_is_refused(tmp_path):
    run(tmp_path, 4)
    with pytest.raises(StateError, match="further than asked"):
        run(tmp_path, 2)


def test_released_preset_trains_with_fixed_noise(tmp_path):
    _, report = run(tmp_path, 2, freezing="released", fixed_noise=True)
    assert len(report.losses) == 2


@pytest.mark.parametrize(
    "setting", [{"steps": -1}, {"batch_size": -1}, {"caption_dropout": 1.0}, {"warmup_steps": 30_000}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match="out of range"):
        TrainConfig(**setting)


def test_runs_of_different_precision_share_a_process(tmp_path):
    """Failed once: accelerate fixes its mixed precision at the first run of a process."""
    _, exact = run(tmp_path / "no", 2, precision="no")
    _, rounded = run(tmp_path / "bf16", 2, precision="bf16")
    assert exact.losses != rounded.losses
    np.testing.assert_allclose(rounded.losses, exact.losses, rtol=0.02)  # bfloat16 rounds to 1 in 256


def test_bfloat16_model_trains_validates_and_comes_back_in_bfloat16(tmp_path):
    """Failed once: validation met float32 trainables beside a bfloat16 trunk."""

    def sample(_step, pipe):
        pictures = pipe(prompt=["red circle"], height=32, width=32, num_inference_steps=2, output_type="pt").images
        assert torch.isfinite(pictures).all()

    pipe, _ = run(tmp_path, 2, dtype=torch.bfloat16, precision="bf16", validate=sample)
    assert {parameter.dtype for parameter in pipe.transformer.parameters()} == {torch.bfloat16}
    sample(2, pipe)


def test_full_precision_of_a_bfloat16_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="lower precision"):
        run(tmp_path, 2, dtype=torch.bfloat16, precision="no")


def test_objective_source_trains_what_lies_before_the_tokens(tmp_path):
    before = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, lift=tiny_lift(), seed=0).transformer
    start_weights = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    pipe, _ = run(tmp_path, 3, objective="source")
    after = pipe.transformer.state_dict()
    changed = {name for name in start_weights if not torch.equal(start_weights[name], after[name])}
    assert changed == set(freezing.trainable_names(before, num_blocks=1, to_tokens=True))
    assert not any(name.startswith(("head", "lift.decode")) for name in changed)
    assert {"lift.stem.weight", "layers.0.attention.to_q.weight"} <= changed


def test_objective_source_goes_on_with_the_teacher_of_the_start(tmp_path):
    """Two steps and two more are four: the teacher is the converted model, not the one that was stopped."""
    run(tmp_path / "whole", 4, objective="source")
    run(tmp_path / "broken", 2, objective="source")
    run(tmp_path / "broken", 4, objective="source")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_objective_source_needs_a_lift():
    model = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD).transformer
    with pytest.raises(ConfigError, match="sees latents"):
        trained_names(model, TrainConfig(objective="source"))


def test_output_side_stores_no_gradient_for_the_rest_of_the_trunk(tmp_path):
    pipe, _ = run(tmp_path, 2, objective="source", freezing="output")
    trained = {name for name, parameter in pipe.transformer.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"layers", "all_final_layer"}
    assert {name.split(".")[1] for name in trained if name.startswith("layers")} == {"3"}
    reached = []
    model = pipe.transformer
    for index, block in enumerate(model.layers):
        block.register_forward_hook(lambda _block, _inputs, output, index=index: reached.append(output.requires_grad))
    family = load_family("z_image")
    conditioning = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), GRID)
    predict_tokens(model, noise(2, 3, 32, 32), torch.tensor([0.5, 0.9]), conditioning)
    assert reached == [False, False, False, True]


def test_rate_factor_is_the_ratio_of_root_mean_squares():
    model = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, lift=tiny_lift()).transformer
    config = TrainConfig(objective="source", num_blocks=1, trunk_rate_factor=None)
    names = trained_names(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.fill_(0.5 if name.startswith(("all_x_embedder", "lift")) else 0.2)
    assert rate_factor_of(model, config) == pytest.approx(0.4)
    assert rate_factor_of(model, replace(config, trunk_rate_factor=0.1)) == 0.1


def test_checkpointing_is_refused_where_diffusers_has_it_not(tmp_path):
    pipe = tiny_pixel_pipeline("hunyuan_dit")
    config = TrainConfig(steps=1, num_blocks=1, gradient_checkpointing=True, shift=1.0)
    with pytest.raises(ConfigError, match="cannot be checkpointed"):
        train(pipe, [], {}.__getitem__, out=tmp_path, config=config)
