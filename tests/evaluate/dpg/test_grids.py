import json
import shutil

import pytest
import torch
from tests.evaluate.dpg.small_bench import PROMPTS, picture

from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.dpg.grids import RECORD, compose_grids, cut_grid
from latent2pixel.io.images import load_bytes, png_of

SAMPLES = [("red",), ("green",), ("blue",), ("red", "blue")]
"""Colours of the four pictures of a prompt, by seed."""


def draw(folder, *, seeds=(3, 11, 20, 100), prompts=PROMPTS, shard="shard-00000"):
    """A folder as ``synthesize`` leaves it, its lines not in the order of the seeds."""
    shard_folder = folder / shard
    shard_folder.mkdir(parents=True)
    lines = []
    for item, prompt in prompts.items():
        for seed, colours in zip(seeds, SAMPLES, strict=False):
            name = f"{item}-{seed}.png"
            (shard_folder / name).write_bytes(png_of(picture(*colours)))
            lines.insert(0, json.dumps({"file_name": name, "prompt": prompt, "seed": seed}))
    (shard_folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_pictures_stand_in_the_order_of_their_seeds(tmp_path):
    pictures, out = draw(tmp_path / "pictures"), tmp_path / "grids"
    told = []
    report = compose_grids(pictures, out, prompts=PROMPTS, on_prompt=lambda *counts: told.append(counts))
    assert (report.num_grids, report.incomplete, report.num_other) == (3, (), 0)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in out.iterdir()) == ["7.png", "first.png", RECORD, "plain1.png"]
    grid_CHW = load_bytes(out / "first.png")
    assert grid_CHW.shape == (3, 16, 16)
    corners = [grid_CHW[:, :8, :8], grid_CHW[:, :8, 8:], grid_CHW[:, 8:, :8], grid_CHW[:, 8:, 8:]]
    for corner, sample, colours in zip(corners, cut_grid(grid_CHW, num_samples=4), SAMPLES, strict=True):
        assert torch.equal(corner, picture(*colours))
        assert torch.equal(sample, corner)


def test_a_picture_that_is_not_square_is_cut_in_the_middle_of_both_sides():
    grid_CHW = torch.arange(3 * 4 * 6).reshape(3, 4, 6)
    cut = cut_grid(grid_CHW, num_samples=4)
    assert [tuple(one.shape) for one in cut] == [(3, 2, 3)] * 4
    assert [int(one[0, 0, 0]) for one in cut] == [0, 3, 12, 15]
    assert cut_grid(grid_CHW, num_samples=1)[0] is grid_CHW


@pytest.mark.parametrize("size", [(3, 5, 6), (3, 4, 7)])
def test_an_odd_side_is_no_grid(size):
    with pytest.raises(DataError, match="no grid of four") as error:
        cut_grid(torch.zeros(size), num_samples=4)
    assert error.value.found == f"{size[2]} x {size[1]} px"


@pytest.mark.parametrize("num_samples", [0, 2, 3, 5])
def test_no_other_number_makes_a_grid(tmp_path, num_samples):
    with pytest.raises(ConfigError, match="no grid of so many"):
        compose_grids(tmp_path, tmp_path / "out", prompts=PROMPTS, num_samples=num_samples)
    with pytest.raises(ConfigError, match="no grid of so many"):
        cut_grid(torch.zeros(3, 4, 4), num_samples=num_samples)


def test_one_picture_is_copied(tmp_path):
    pictures = draw(tmp_path / "pictures", seeds=(5,))
    report = compose_grids(pictures, tmp_path / "grids", prompts=PROMPTS, num_samples=1)
    assert report.num_grids == 3
    assert torch.equal(load_bytes(tmp_path / "grids" / "7.png"), picture("red"))


def test_missing_and_broken_pictures_leave_no_grid(tmp_path):
    pictures, out = draw(tmp_path / "pictures"), tmp_path / "grids"
    shard = pictures / "shard-00000"
    (shard / "first-11.png").unlink()
    (shard / "plain1-3.png").write_bytes((shard / "plain1-3.png").read_bytes()[:40])
    (shard / "7-20.png").write_bytes(png_of(picture("red", side_px=10)))
    report = compose_grids(pictures, out, prompts={**PROMPTS, "gone": "Gone."})
    assert report.num_grids == 0
    reasons = dict(entry.split(": ", 1) for entry in report.incomplete)
    assert reasons["7"] == "pictures of 2 sizes"
    assert "first-11.png" in reasons["first"]
    assert "plain1-3.png" in reasons["plain1"]
    assert reasons["gone"] == "0 of 4 pictures"


def test_pictures_of_other_prompts_are_counted(tmp_path):
    pictures = draw(tmp_path / "pictures")
    report = compose_grids(pictures, tmp_path / "grids", prompts={"first": PROMPTS["first"]})
    assert (report.num_grids, report.num_other) == (1, 8)


def test_too_many_pictures_or_none_with_a_seed_are_refused(tmp_path):
    pictures = draw(tmp_path / "pictures")
    draw(pictures, seeds=(7,), shard="shard-00001", prompts={"first": PROMPTS["first"]})
    with pytest.raises(DataError, match="more pictures than it should") as error:
        compose_grids(pictures, tmp_path / "grids", prompts=PROMPTS)
    assert error.value.found == "5 of first"
    file = pictures / "shard-00001" / "metadata.jsonl"
    file.write_text(file.read_text().replace('"seed": 7', '"seed": null'))
    with pytest.raises(DataError, match="has no seed"):
        compose_grids(pictures, tmp_path / "grids", prompts=PROMPTS)


def test_again_makes_only_what_is_missing_or_has_changed(tmp_path):
    pictures, out = draw(tmp_path / "pictures"), tmp_path / "grids"
    compose_grids(pictures, out, prompts=PROMPTS)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    (out / "7.png").unlink()
    (pictures / "shard-00000" / "first-3.png").write_bytes(png_of(picture("blue")))
    assert compose_grids(pictures, out, prompts=PROMPTS).num_grids == 3
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert {name for name in before if before[name] != after[name]} == {"7.png", "first.png"}
    assert torch.equal(cut_grid(load_bytes(out / "first.png"), num_samples=4)[0], picture("blue"))


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_killed_composition_goes_on(tmp_path, done):
    pictures, out = draw(tmp_path / "pictures"), tmp_path / "grids"

    def stop(number, _):
        if number == done + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose_grids(pictures, out, prompts=PROMPTS, on_prompt=stop)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(before) == done + 1
    assert compose_grids(pictures, out, prompts=PROMPTS).num_grids == 3
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}.items()
    whole = tmp_path / "whole"
    compose_grids(pictures, whole, prompts=PROMPTS)
    for path in whole.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_a_grid_whose_pictures_are_gone_is_not_left_to_be_scored(tmp_path):
    pictures, out = draw(tmp_path / "pictures"), tmp_path / "grids"
    compose_grids(pictures, out, prompts=PROMPTS)
    shutil.rmtree(pictures / "shard-00000")
    draw(pictures, prompts={"7": PROMPTS["7"]})
    with pytest.raises(DataError, match="would be scored") as error:
        compose_grids(pictures, out, prompts=PROMPTS)
    assert error.value.found == f"2 in {out}, the first first.png"
