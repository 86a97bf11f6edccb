"""Two processes on one machine: the losses of one, one checkpoint, and exact resume."""

import os
import subprocess
import sys

import numpy as np
from tests.train.test_trainer import REPOSITORY, losses, start

from latent2pixel.train.checkpoint import checkpoint_folders


def start_two(out, steps, *settings):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    script = REPOSITORY / "tests" / "train" / "run_tiny.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen([*launcher, str(script), str(out), str(steps), *settings], env=environment)


def test_two_processes_train_as_one_and_go_on_exactly(tmp_path):
    assert start_two(tmp_path / "two", 6).wait(timeout=240) == 0
    assert start(tmp_path / "one", 6).wait(timeout=240) == 0
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-6)
    names = [path.name for path in checkpoint_folders(tmp_path / "two" / "checkpoints")]
    assert names == ["step-00000004", "step-00000006"]
    assert start_two(tmp_path / "broken", 4).wait(timeout=240) == 0
    assert start_two(tmp_path / "broken", 6).wait(timeout=240) == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "two")


def test_frozen_blocks_in_shards_train_as_whole_ones(tmp_path):
    """Towards the source, so that the teacher is in shards too; with validation, which all processes run."""
    settings = ("objective=source", "validate_every=4")
    assert start_two(tmp_path / "whole", 4, *settings).wait(timeout=240) == 0
    assert start_two(tmp_path / "shards", 4, *settings, "shard_frozen=true").wait(timeout=240) == 0
    np.testing.assert_allclose(losses(tmp_path / "shards"), losses(tmp_path / "whole"), rtol=1e-6)
    assert [path.name for path in checkpoint_folders(tmp_path / "shards" / "checkpoints")][-1] == "step-00000004"
    assert (tmp_path / "shards" / "seen-0").exists()
    assert (tmp_path / "shards" / "seen-1").exists()
