"""The launch files, run as they are: on one process, on two, and through a batch job that is asked to stop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.train.test_trainer import losses

from latent2pixel.data.prompts import Prompt
from latent2pixel.data.synthesize import synthesize
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.train.checkpoint import newest_folder
from latent2pixel.world.source_model import SHIPPED_SOURCE

LAUNCH = Path(__file__).parents[1] / "launch"
SETTINGS = {
    "steps": 3, "batch_size": 2, "num_blocks": 1, "image_size_px": 64, "warmup_steps": 0,
    "objective": "images", "validation_images": 1, "validation_steps": 1, "validate_every": 0, "num_workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    prompts = [Prompt(id=str(i), prompt=text, major_class="m", sub_class="s") for i, text in enumerate(["red", "blue"])]
    synthesize(
        open_pipeline(SHIPPED_SOURCE), prompts, folder / "images", seeds_per_prompt=2, image_size_px=64, num_steps=1,
        guidance_scale=0.0, batch_size=2, seed=0,
    )  # fmt: skip
    return SHIPPED_SOURCE, folder / "images"


def launch(name, parts, out, *, programs="", **settings):
    environment = os.environ | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "SOURCE": str(parts[0]),
        "IMAGES": str(parts[1]),
        "OUT": str(out),
        "RECIPE": "paper",
        "GPUS": "2",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(LAUNCH.parent),
    }
    chosen = [part for key, value in (SETTINGS | settings).items() for part in ("--set", f"{key}={value}")]
    return subprocess.Popen(["bash", str(LAUNCH / name), *chosen], env=environment)


def test_many_processes_train_the_model_of_one(parts, tmp_path):
    for name in ("one-gpu.sh", "many-gpus.sh"):
        assert launch(name, parts, tmp_path / name).wait(timeout=400) == 0
    one, many = tmp_path / "one-gpu.sh" / "run", tmp_path / "many-gpus.sh" / "run"
    np.testing.assert_allclose(losses(many), losses(one), rtol=1e-3)  # bfloat16; other sums
    weights = [load_file(*(run / "model" / "transformer").glob("*.safetensors")) for run in (one, many)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0.02, atol=1e-3)


def test_a_job_that_is_asked_to_stop_keeps_its_last_step_and_queues_itself_again(parts, tmp_path):
    (tmp_path / "scontrol").write_text(f"#!/usr/bin/env bash\necho $* > {tmp_path}/queued\n")
    (tmp_path / "scontrol").chmod(0o755)
    run = tmp_path / "out" / "run"
    job = launch("slurm.sbatch", parts, tmp_path / "out", programs=tmp_path, steps=100_000)
    deadline = time.monotonic() + 300
    while len(losses(run)) < 2 and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    job.terminate()
    assert job.wait(timeout=120) != 0
    assert newest_folder(run / "checkpoints").name == f"step-{len(losses(run)):08d}"
    assert (tmp_path / "queued").read_text().split() == ["requeue", "7"]
