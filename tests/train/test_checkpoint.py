import pytest
import torch

from latent2pixel.errors import CheckpointError
from latent2pixel.train.checkpoint import Checkpoint, checkpoint_folders, load_newest_checkpoint, save_checkpoint

SHAPES = {"a.weight": torch.Size([2, 3]), "b": torch.Size([4])}


def checkpoint(step):
    weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    return Checkpoint(step=step, seconds=1.5, trainable=weights, average=None, optimizer={"state": {0: torch.ones(2)}})


def test_round_trip(tmp_path):
    saved = checkpoint(7)
    save_checkpoint(tmp_path, saved, keep=2)
    loaded = load_newest_checkpoint(tmp_path, SHAPES)
    assert loaded.step == 7
    assert loaded.seconds == 1.5
    assert loaded.average is None
    assert all(torch.equal(loaded.trainable[name], saved.trainable[name]) for name in SHAPES)


def test_newest_are_kept_and_loaded(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000010", "step-00000100"]
    assert load_newest_checkpoint(tmp_path, SHAPES).step == 100


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_newest_checkpoint(tmp_path, SHAPES) is None


@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.pt", "state.json"])
def test_truncated_file_is_told_and_nothing_is_removed(tmp_path, name):
    path = save_checkpoint(tmp_path, checkpoint(3), keep=2) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_newest_checkpoint(tmp_path, SHAPES)
    assert path.exists()


def test_checkpoint_of_another_model_is_refused(tmp_path):
    save_checkpoint(tmp_path, checkpoint(3), keep=2)
    with pytest.raises(CheckpointError, match="other parameters"):
        load_newest_checkpoint(tmp_path, {**SHAPES, "b": torch.Size([5])})
