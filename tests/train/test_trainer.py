import importlib.util
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
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.tiny import GRID, HEAD, PROMPTS, noise, tiny_lift, tiny_pipeline, tiny_pixel_pipeline
from tests.train.run_tiny import run

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.errors import ConfigError, StateError, TrainingError
from latent2pixel.families import load_family
from latent2pixel.model import freezing
from latent2pixel.model.compute import compile_parts
from latent2pixel.model.predict import predict, predict_tokens
from latent2pixel.train import TrainConfig, train
from latent2pixel.train.average import average_of, power_of
from latent2pixel.train.checkpoint import best_folder, checkpoint_folders, newest_folder
from latent2pixel.train.for_model import rate_factor_of, trained_names
from latent2pixel.train.validation import Validation

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"
GOLDEN_RUNS = {
    "paper": {},
    "released": {"freezing": "released", "fixed_noise": True},
    "lift": {"objective": "source", "trunk_rate_factor": None},
}


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


def test_terminated_run_leaves_a_checkpoint_of_its_last_step_and_goes_on(tmp_path):
    process = start(tmp_path / "broken", 100_000)
    deadline = time.monotonic() + 120
    while len(losses(tmp_path / "broken")) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    reached = len(losses(tmp_path / "broken"))
    assert newest_folder(tmp_path / "broken" / "checkpoints").name == f"step-{reached:08d}"
    for name in ("broken", "reference"):
        assert start(tmp_path / name, reached + 2).wait(timeout=300) == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "reference")


@pytest.mark.parametrize("recipe", GOLDEN_RUNS)
def test_losses_follow_the_golden_curve(recipe, tmp_path):
    """A short run as text. Another CPU's rounding moves it by about 1e-6, a changed formula by far more."""
    torch.set_num_threads(1)
    run(tmp_path, 8, **GOLDEN_RUNS[recipe])
    expected = [float(line) for line in (GOLDEN / f"losses-{recipe}.txt").read_text().splitlines()]
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
    run(tmp_path, 2, validate=lambda *_: Validation(picture_CHW=torch.zeros(3, 8, 8)), validate_every=1)
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
        train(pipe, None, {}.__getitem__, out=tmp_path, config=config)


def test_micro_batches_change_nothing(tmp_path):
    whole, _ = run(tmp_path / "whole", 4, batch_size=4)
    cut, _ = run(tmp_path / "cut", 4, batch_size=4, accumulation_steps=2)
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-6)
    name = "head.out_conv.weight"
    torch.testing.assert_close(cut.transformer.state_dict()[name], whole.transformer.state_dict()[name])


def test_a_head_in_tiles_learns_the_same(tmp_path):
    whole, _ = run(tmp_path / "whole", 4)
    tiled, _ = run(tmp_path / "tiled", 4, head_tile_px=12)
    np.testing.assert_allclose(losses(tmp_path / "tiled"), losses(tmp_path / "whole"), rtol=1e-5)
    assert tiled.transformer.head.tile_px is None
    for name in ("head.out_conv.weight", "head.enc.0.0.weight"):
        torch.testing.assert_close(
            tiled.transformer.state_dict()[name], whole.transformer.state_dict()[name], rtol=1e-4, atol=1e-5
        )


def test_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not divide") as caught:
        run(tmp_path, 2, batch_size=3, accumulation_steps=2)
    assert "multiple of 2" in caught.value.expected


def test_an_image_that_is_no_number_ends_the_run_and_keeps_what_is_good(tmp_path):
    with pytest.raises(TrainingError, match="no number") as caught:
        run(tmp_path, 8, broken_image=3, checkpoint_every=1)
    steps = len(losses(tmp_path))
    assert f"at step {steps + 1}" in caught.value.found
    assert "images " in caught.value.found
    kept = newest_folder(tmp_path / "checkpoints")
    assert kept.name == f"step-{steps:08d}"
    assert kept.name in caught.value.fix
    assert all(value.isfinite().all() for value in load_file(kept / "trainable.safetensors").values())


def test_growing_loss_ends_the_run(tmp_path):
    with pytest.raises(TrainingError, match="diverges"):
        run(tmp_path, 60, divergence_factor=0.5)
    assert len(losses(tmp_path)) == 49  # a window of 50 is half full of what it is compared with


def test_best_checkpoint_and_milestones_stay(tmp_path):
    errors = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0, 6: 2.0}
    run(
        tmp_path, 6, validate=lambda step, _: Validation(error=errors[step]), validate_every=1, checkpoint_every=1,
        keep_checkpoints=1, milestone_every=4,
    )  # fmt: skip
    folder = tmp_path / "checkpoints"
    assert [path.name for path in checkpoint_folders(folder)] == ["step-00000002", "step-00000004", "step-00000006"]
    assert best_folder(folder).name == "step-00000002"


def test_validation_numbers_reach_tensorboard(tmp_path):
    run(tmp_path, 1, warmup_steps=0, validate=lambda *_: Validation(metrics={"score": 0.25}), validate_every=1)
    (events,) = (tmp_path / "logs").rglob("events.*")
    board = EventAccumulator(str(events)).Reload()
    assert [event.value for event in board.Scalars("score")] == [0.25]
    assert board.Scalars("gradient_norm")[0].value > 0


@pytest.mark.parametrize(("name", "message"), [("tensorbored", "no tracker of that name"), ("wandb", "not installed")])
def test_unknown_and_missing_trackers_are_refused(tmp_path, name, message):
    if name == "wandb" and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, 2, trackers=("tensorboard", name))


def test_average_widens_with_the_run(tmp_path):
    """Karras et al. 2024: with the widest spread the average of n steps is near their mean."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    config = TrainConfig(ema_decay=0.9999, ema_relative_std=0.28)
    average = average_of([parameter], config)
    for step in range(200):
        with torch.no_grad():
            parameter.fill_(step)
        average.step([parameter])
    assert average.shadow_params[0].item() == pytest.approx(199 * 1.17 / 2.17, rel=0.02)  # mean of t**0.17
    assert power_of(0.28) == pytest.approx(0.17, abs=0.01)


def test_compiled_parts_give_the_same_gradients():
    """Traced and differentiated as when compiled, but run by torch itself: a compiler of C++ takes minutes here."""
    family = load_family("z_image")
    torch._dynamo.utils.counters.clear()
    gradients = []
    for compiled in (False, True):
        pipe = tiny_pixel_pipeline("z_image")
        model = pipe.transformer
        if compiled:
            compile_parts(model, backend="aot_eager")
        conditioning = family.collate(model, family.encode(pipe, PROMPTS), GRID)
        predict(model, noise(2, 3, 64, 96), torch.tensor([0.3, 0.8]), conditioning).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    plain, traced = gradients
    assert plain.keys() == traced.keys()
    for name in plain:
        torch.testing.assert_close(traced[name], plain[name], rtol=1e-4, atol=1e-6)
