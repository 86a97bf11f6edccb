"""Trained weights in a copy of a pipeline folder: what changes, in which dtype, and what does not."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latent2pixel.errors import CheckpointError, OutputFolderError
from latent2pixel.io.merge import LowRank, merge_pipeline
from latent2pixel.io.new_folder import new_folder

SHARDS = [
    {"a": torch.arange(6, dtype=torch.bfloat16).view(2, 3), "steps": torch.tensor(7)},
    {"b": torch.zeros(2, 2), "c": torch.full((3,), 2.0, dtype=torch.float16)},
]


def build(folder: Path) -> Path:
    """Write a pipeline of a sharded transformer in three dtypes, its twin, and a scheduler."""
    parts = {"transformer": "T", "twin": "T", "scheduler": "S", "left_out": None}
    index = {"_class_name": "P", **{name: [kind and "diffusers", kind] for name, kind in parts.items()}}
    for part in ("transformer", "twin"):
        (folder / part).mkdir(parents=True)
        for number, shard in enumerate(SHARDS):
            save_file(shard, folder / part / f"model-{number}.safetensors", metadata={"format": "pt"})
        (folder / part / "config.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"shift": 3}')
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text("of the base")
    return folder


def merged(folder: Path, trained: dict, parts=("transformer", "twin")) -> Path:
    with new_folder(folder / "out") as part:
        merge_pipeline(build(folder / "base"), part, trained, parts=parts)
    return folder / "out"


def test_trained_weights_take_the_place_and_the_dtype_of_stored_ones(tmp_path):
    trained = {"b": torch.tensor([[1.0, -2.0], [3.0, 1e-30]]), "a": torch.tensor([[1 / 3, 2, 3], [4, 5, -6]]).double()}
    out = merged(tmp_path, trained)
    for part in ("transformer", "twin"):
        first, second = (load_file(out / part / f"model-{number}.safetensors") for number in (0, 1))
        assert torch.equal(first["a"], trained["a"].to(torch.bfloat16))
        assert first["a"].dtype == torch.bfloat16
        assert torch.equal(second["b"], trained["b"])
        assert torch.equal(first["steps"], SHARDS[0]["steps"])
        assert torch.equal(second["c"], SHARDS[1]["c"])


def test_low_rank_change_is_added_in_float32_before_it_takes_the_stored_dtype(tmp_path):
    # -5 * (1 + 2**-9) is no bfloat16: rounded on its own first, it would make another sum with 3.
    up_OR, down_RI = torch.tensor([[1.0], [-2.0]]), torch.tensor([[1 + 2**-9, 0.0, -1.0]])
    out = merged(tmp_path, {"a": LowRank(up_OR=up_OR.double(), down_RI=down_RI, scale=2.5)})
    expected = torch.tensor([[2.5 + 2.5 * 2**-9, 1.0, -0.5], [-2.0 - 5 * 2**-9, 4.0, 10.0]])
    for part in ("transformer", "twin"):
        found = load_file(out / part / "model-0.safetensors")["a"]
        assert torch.equal(found, expected.to(torch.bfloat16))


def test_nothing_else_changes_a_byte(tmp_path):
    out = merged(tmp_path, {"c": torch.full((3,), 2.0)}, parts=("transformer",))
    expected = {path.relative_to(tmp_path / "base"): path for path in (tmp_path / "base").rglob("*") if path.is_file()}
    del expected[Path("README.md")]  # no part of the pipeline
    found = {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
    assert found.keys() == expected.keys()
    assert all(found[name].read_bytes() == path.read_bytes() for name, path in expected.items())


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("b.lora_A.weight", torch.zeros(2, 2), "1 names that it has not"),
        ("b", torch.zeros(4), "1 of another shape"),
        ("b", LowRank(up_OR=torch.zeros(2, 1), down_RI=torch.zeros(1, 3), scale=1.0), "1 of another shape"),
        ("steps", torch.tensor(1.0), "1 stored as no float"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, name, value, match):
    with pytest.raises(CheckpointError, match=match):
        merged(tmp_path, {"c": torch.zeros(3), name: value})
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's file size limit")
def test_full_disk_leaves_nothing(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_merge_beyond_limit, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def _merge_beyond_limit(folder: Path) -> None:
    import resource
    import signal

    base = build(folder / "base")
    save_file({"d": torch.zeros(2**16)}, base / "transformer" / "model-2.safetensors")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    with pytest.raises(OutputFolderError, match="disk is full"), new_folder(folder / "out") as part:
        merge_pipeline(base, part, {}, parts=("transformer",))
