"""Ablations: equal budgets, runs that are shared and never made twice, tables that say what was measured."""

import json
import shutil
import statistics
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import ConfigError, StateError
from latent2pixel.io.images import load_image
from latent2pixel.report.ablation import AblationResult, differences, draw_arms, looks_table, table, write_ablation
from latent2pixel.workflow.ablation.ablate import LOCK, SETTINGS, Ablation
from latent2pixel.workflow.ablation.images import AblationImages
from latent2pixel.workflow.ablation.plan import plan_arm
from latent2pixel.workflow.ablation.run import ArmRun, subset
from latent2pixel.workflow.ablation.studies import PAPER_STUDIES, chosen_studies, named_studies, require_study
from latent2pixel.workflow.ablation.study import AblationConfig, Arm, Study
from latent2pixel.world.source_model import SHIPPED_SOURCE

TINY = AblationConfig(
    steps=2, looks=(1, 2), num_prompts=6, seeds_per_prompt=1, num_validation=2, num_captions=6, num_steps=1
)
SMALL = {"batch_size": 2}
STUDY = Study(
    name="tiny",
    question="Which of two is better?",
    arms=(Arm(name="all", training=SMALL), Arm(name="three", num_images=3, training=SMALL)),
)


def ablation(out, *, config=TINY, told=None, other=None):
    lines = [] if told is None else told
    return Ablation(out, source=SHIPPED_SOURCE, other=other, config=config, announce=lines.append)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "out"
    return out, ablation(out).run([STUDY], [0])[0]


def test_every_arm_is_looked_at_as_often(finished):
    _, result = finished
    looks = [(row["arm"], row["seed"], row["step"]) for row in result.rows]
    assert looks == [(arm, 0, step) for arm in ("all", "three") for step in (1, 2)]
    assert result.missing == 0
    for row in result.rows:
        assert row["error"] == pytest.approx(statistics.fmean(row["errors"]))
        assert 0 < row["error"] < 4, "a velocity of noise minus image has a mean square near 1.5"


def test_a_run_is_never_made_twice(finished):
    out, before = finished
    told = []
    after = ablation(out, told=told).run([STUDY], [0])[0]
    assert told == []
    assert after.rows == before.rows
    assert not list(out.glob("runs/*/*/train")), "checkpoints are of no use behind a finished run"


def test_equal_arms_of_two_studies_are_one_run(finished):
    out, before = finished
    told = []
    again = replace(STUDY, name="again", arms=(replace(STUDY.arms[1], name="another name"),))
    result = ablation(out, told=told).run([again], [0])[0]
    assert told == []
    assert [row["error"] for row in result.rows] == [row["error"] for row in before.rows[2:]]


def test_a_run_that_another_process_has_is_left_to_it(finished, tmp_path):
    key = plan_arm(STUDY.arms[0], STUDY, TINY).key
    folder = tmp_path / "out" / "runs" / key / "seed-0"
    folder.mkdir(parents=True)
    told = []
    with FileLock(folder / LOCK):
        # Nothing else is left: the folder of the second arm and of the source are taken from the finished one.
        out, _ = finished
        for path in out.glob("runs/*/seed-0"):
            if path.parent.name != key:
                shutil.copytree(path, tmp_path / "out" / path.relative_to(out))
        (tmp_path / "out" / "manifest.json").write_bytes((out / "manifest.json").read_bytes())
        result = ablation(tmp_path / "out", told=told).run([STUDY], [0])[0]
    assert [line.split(": ")[1] for line in told] == ["another process has it"]
    assert result.missing == 1
    assert result.arms == ["three"]
    assert "Runs that are not finished: 1." in (tmp_path / "out" / "tiny.md").read_text()


def test_another_budget_does_not_go_on(finished):
    out, _ = finished
    with pytest.raises(StateError, match="num_captions"):
        ablation(out, config=replace(TINY, num_captions=12))


def test_a_run_of_a_version_with_another_default_does_not_count(finished, tmp_path):
    out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "runs" / plan_arm(STUDY.arms[0], STUDY, TINY).key / "seed-0" / SETTINGS
    settings = json.loads(path.read_text())
    settings["training"]["a field of another version"] = 1
    path.write_text(json.dumps(settings))
    ablation(tmp_path / "out").run([STUDY], [0])
    settings["training"]["weight_decay"] = 0.5
    path.write_text(json.dumps(settings))
    with pytest.raises(StateError, match="weight_decay"):
        ablation(tmp_path / "out").run([STUDY], [0])


def test_a_killed_arm_begins_again(finished, tmp_path):
    """A checkpoint of the last step must not let the run end without a look."""
    out, result = finished
    plan = plan_arm(STUDY.arms[0], STUDY, TINY)
    images = AblationImages(folder=out / "images" / "seed-0", source=SHIPPED_SOURCE, other=None, config=TINY, seed=0)
    left = tmp_path / "run" / "train" / "checkpoints" / "step-00000002"
    left.mkdir(parents=True)
    (left / "half").write_text("written")
    rows = ArmRun(plan=plan, images=images, out=tmp_path / "run").rows()
    assert [row["error"] for row in rows] == [row["error"] for row in result.rows[:2]]


def test_the_lift_is_looked_at_after_warm_ups_of_equal_length(tmp_path):
    # Enough patches for the fit: 200 images of 16.
    config = replace(TINY, num_prompts=200, num_captions=6)
    study = Study(name="lift", question="?", arms=(Arm(name="lift", recipe="lift"),))
    images = AblationImages(folder=tmp_path / "images", source=SHIPPED_SOURCE, other=None, config=config, seed=0)
    rows = ArmRun(plan=plan_arm(study.arms[0], study, config), images=images, out=tmp_path / "run").rows()
    assert [row["step"] for row in rows] == [1, 2]

    def shift_of(conversion="lift", images_of="source", *, shift, size_px=64):
        arm = Arm(name="d", recipe=conversion, shift=shift, images=images_of)
        sized = replace(study, patch_size=size_px // 4, image_size_px=size_px)
        run = ArmRun(plan=plan_arm(arm, sized, config), images=images, out=tmp_path / "run")
        pipe = run.lifted(0)[0] if conversion == "lift" else run._built(run._open_source())
        run._set_shift(pipe)
        return run._shift_of(pipe)

    # The lift's scale is about 4.7 here, and the pipeline's shift with it: the derived one is the same.
    assert shift_of(shift=None) == pytest.approx(3 * 4.7, rel=0.1)
    assert shift_of("paper", shift="derived") == pytest.approx(shift_of(shift=None), rel=1e-5)
    assert shift_of("paper", shift=None) == shift_of(shift="source") == pytest.approx(3)
    assert shift_of(shift=6.0) == pytest.approx(6)
    small, large = (shift_of(images_of="renders", shift=None, size_px=size_px) for size_px in (64, 256))
    assert large == pytest.approx(4 * small, rel=0.05)  # other renders of the same scenes


def test_a_subset_is_drawn_from_all_images_and_depends_on_the_seed():
    drawn = [subset(100, 3, seed=seed) for seed in range(8)]
    assert all(len(set(indices)) == 3 and indices == sorted(indices) for indices in drawn)
    assert len(set(map(tuple, drawn))) == 8
    assert max(max(indices) for indices in drawn) > 50
    assert subset(4, None, seed=0) == subset(4, 10, seed=0) == [0, 1, 2, 3]


def test_rates_follow_the_factor():
    study = require_study("rates-paper")
    rates = {arm.name: plan_arm(arm, study, TINY).training.learning_rate for arm in study.arms}
    assert rates["rate x 1"] == pytest.approx(1e-3)
    assert rates["rate x 3"] == pytest.approx(3e-3)
    lifted = require_study("rates-lift")
    assert plan_arm(lifted.arms[-1], lifted, TINY).warm_up.learning_rate == pytest.approx(1.5e-2)
    large = require_study("shift-64")
    assert plan_arm(large.arms[0], large, TINY).warm_up.batch_size == 8


def test_arms_without_another_source_are_refused(tmp_path):
    study = Study(name="other", question="?", arms=(Arm(name="own"), Arm(name="other", images="other")))
    told = []
    with pytest.raises(ConfigError, match="--other-source"):
        ablation(tmp_path / "out", told=told).run([study], [0])
    assert not told, "nothing may run before it is known that all can"


def test_a_source_of_another_size_is_refused(tmp_path):
    study = Study(name="large", question="?", arms=(Arm(name="large"),), image_size_px=256, patch_size=64)
    with pytest.raises(ConfigError, match="images=renders"):
        ablation(tmp_path / "out").run([study], [0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"looks": (1,)}, "last look"),
        ({"looks": (-1, 2)}, "rising"),
        ({"looks": (0,), "steps": 0}, "rising"),
        ({"looks": (2, 1, 2)}, "rising"),
        ({"looks": ()}, "rising"),
    ],
)
def test_looks_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **settings)


def test_equal_names_are_refused():
    with pytest.raises(ConfigError, match="told apart"):
        Study(name="twins", question="?", arms=(Arm(name="a"), Arm(name="a")))


def test_a_study_can_be_written_in_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nquestion: Why?\narms:\n- name: slow\n  training: {learning_rate: 1e-4}\n- name: fast\n"
    )
    study = require_study(str(path))
    assert plan_arm(study.arms[0], study, TINY).training.learning_rate == pytest.approx(1e-4)
    path.write_text("name: mine\nquestion: Why?\narms:\n- name: slow\n  trainning: {}\n")
    with pytest.raises(ConfigError, match="Did you mean"):
        require_study(str(path))


def test_the_papers_studies_are_named():
    assert set(PAPER_STUDIES) <= set(named_studies())
    assert [study.name for study in chosen_studies(["data", "recipes"], paper=True)] == [*PAPER_STUDIES, "recipes"]
    with pytest.raises(ConfigError, match="--paper"):
        chosen_studies([], paper=False)
    with pytest.raises(ConfigError, match="no study of that name"):
        chosen_studies(["dept"], paper=False)


def row(arm, seed, step, score):
    return {
        "arm": arm, "seed": seed, "step": step, "seconds": 1.0, "error": 0.5, "score": score, "chance": 0.1, "grid": 1.0
    }  # fmt: skip


def test_differences_are_taken_seed_by_seed_at_the_last_look():
    rows = [row("a", 0, 10, 0.9), row("a", 0, 20, 0.2), row("a", 1, 20, 0.4), row("b", 1, 20, 0.7), row("b", 2, 20, 1)]
    assert differences(rows, "b", base="a") == pytest.approx([0.3])
    result = AblationResult(name="x", question="?", claim=None, rows=rows, source_scores=[0.8, 0.6], missing=0)
    lines = table(result).splitlines()
    assert "The source's own score: 0.700 +- 0.141." in lines
    assert "| a | 20 | 1.000 +- 0.000 | 0.500 +- 0.000 | 0.300 +- 0.141 | 0.100 +- 0.000 | 1.000 +- 0.000 |" in lines
    assert lines[-1] == "| b | 0.300 | 0.000 |"


def test_seconds_of_several_machines_are_not_averaged(tmp_path):
    rows = [row("a", seed, step, 0.2) | {"machine": f"machine {seed}"} for seed in (0, 1) for step in (10, 20)]
    two, one = (
        AblationResult(name=name, question="?", claim=None, rows=chosen, source_scores=[], missing=0)
        for name, chosen in (("two", rows), ("one", rows[:2]))
    )
    assert "| a | 20 | - | 0.500 +- 0.000 |" in table(two)
    assert "no seconds: machine 0; machine 1." in table(two)
    assert "| a | 20 | 1.000 | 0.500 |" in table(one)
    for result in (one, two):
        write_ablation(result, tmp_path, pictures={})
    assert not torch.equal(load_image(tmp_path / "one.png"), load_image(tmp_path / "two.png"))


def test_what_is_no_number_is_a_dash():
    rows = [row("a", seed, 10, 0.2) | {"chance": float("nan")} for seed in (0, 1)]
    assert "| 0.200 +- 0.000 | - | 1.000 +- 0.000 |" in looks_table(rows)


def test_one_look_at_each_arm_is_drawn_arm_by_arm(tmp_path):
    rows = [row("a", 0, 10, 0.2), row("a", 1, 10, 0.4), row("b", 0, 10, 0.9), row("b", 1, 10, 0.8)]
    pictures = {}
    for name, more in (("one", []), ("two", [row("a", 0, 20, 0.3)])):
        result = AblationResult(name=name, question="?", claim=None, rows=rows + more, source_scores=[0.8], missing=0)
        write_ablation(result, tmp_path, pictures={})
        pictures[name] = load_image(tmp_path / f"{name}.png")
    draw_arms(rows, tmp_path / "arms.png", source_scores=[0.8])
    assert torch.equal(pictures["one"], load_image(tmp_path / "arms.png"))
    assert not torch.equal(pictures["one"], pictures["two"])


def test_the_command_prints_its_plan():
    shown = CliRunner().invoke(app, ["ablate", "out", "--study", "shift", "--set", "num_captions=6", "--dry-run"])
    plan = json.loads(shown.stdout)
    assert plan["budget"]["num_captions"] == 6
    assert [arm["shift"] for arm in plan["studies"][0]["arms"]] == ["source", 1.0, 6.0, 40.0, None]
