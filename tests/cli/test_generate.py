"""``l2p generate`` from its arguments to the file."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.errors import ConfigError, DataError, GeometryError, OutputFolderError, SourceError, StateError
from latent2pixel.generate import load_pipeline
from latent2pixel.io.png_rows import read_record

PROMPT = ("--prompt", "a red circle", "--steps", 2, "--size", 32)


def run(*arguments):
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_picture_is_the_stock_pipelines(pixel_folder, tmp_path):
    import torch

    out = tmp_path / "deep" / "a.png"
    assert run(pixel_folder, *PROMPT, "--out", out, "--seed", 3).stdout == f"{out}\n"
    stock = load_pipeline(pixel_folder)(
        prompt=["a red circle"],
        height=32,
        width=32,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    made = np.asarray(Image.open(out)).astype(int)
    # diffusers and we round to bytes from ranges [0, 1] and [-1, 1]: a tie may fall either way
    assert np.abs(made - np.asarray(stock).astype(int)).max() <= 1
    assert made.std() > 1


@pytest.mark.e2e
def test_compiled_it_is_the_same_picture(pixel_folder, tmp_path):
    from torch._dynamo.utils import counters

    plain, compiled = tmp_path / "plain.png", tmp_path / "compiled.png"
    before = counters["stats"]["unique_graphs"]
    run(pixel_folder, *PROMPT, "--out", plain)
    assert counters["stats"]["unique_graphs"] == before
    run(pixel_folder, *PROMPT, "--out", compiled, "--compile")
    assert counters["stats"]["unique_graphs"] >= before + 2  # a block, and the head
    plain_HW3, compiled_HW3 = (np.asarray(Image.open(path)).astype(int) for path in (plain, compiled))
    assert np.abs(plain_HW3 - compiled_HW3).max() <= 1


def test_seed_decides_the_picture(pixel_folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(pixel_folder, *PROMPT, "--out", tmp_path / f"{name}.png", "--seed", seed)
    files = [(tmp_path / f"{name}.png").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--out", "a.xyz"), DataError),
        (("--out", "a.jpg"), DataError),
        (("--size", "32x"), GeometryError),
        (("--size", "32x40"), GeometryError),
        (("--images", 2, "--out", "a.png"), ConfigError),
        (("--seed", 1, "--seed", 1), ConfigError),
        (("--batch", 0), ConfigError),
        (("--memory", "8"), ConfigError),
        (("--memory", "1MB"), ConfigError),
        (("--prompts", "missing.txt"), DataError),
        (("--size", 33), GeometryError),
        (("--size", 0), GeometryError),
        (("--steps", 0), ConfigError),
        (("--dtype", "float"), ConfigError),
    ],
)
def test_refuses_before_sampling(pixel_folder, tmp_path, monkeypatch, arguments, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        run(pixel_folder, *PROMPT, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_latent_source_is_refused(source_folder, tmp_path):
    with pytest.raises(SourceError, match="no pixel pipeline"):
        run(source_folder, *PROMPT, "--out", tmp_path / "a.png")


def test_there_must_be_a_prompt(pixel_folder):
    with pytest.raises(ConfigError, match="nothing to show"):
        run(pixel_folder, "--size", 32)


def test_size_names_the_nearest(pixel_folder):
    with pytest.raises(GeometryError) as caught:
        run(pixel_folder, *PROMPT, "--size", "50x20")
    assert caught.value.fix == "Choose 48x16."


def test_width_comes_first(pixel_folder, tmp_path):
    run(pixel_folder, *PROMPT, "--size", "48x32", "--out", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (48, 32)


def test_picture_holds_how_it_was_made(pixel_folder, tmp_path):
    run(pixel_folder, *PROMPT, "--out", tmp_path / "a.png", "--seed", 3, "--guidance", 1.5)
    record = read_record(tmp_path / "a.png")
    assert record.pop("revision").startswith("sha256:")
    assert record.pop("version")
    assert record == {
        "prompt": "a red circle",
        "seed": 3,
        "width": 32,
        "height": 32,
        "steps": 2,
        "guidance": 1.5,
        "model": "pixel",
        "dtype": "float32",
    }


def test_prompts_times_seeds_in_a_folder(pixel_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\n  two blue squares \n")
    arguments = ("--prompts", prompts, *PROMPT[2:], "--seed", 4, "--images", 2, "--batch", 3, "--out", tmp_path / "out")
    told = json.loads(run(pixel_folder, *arguments, "--json").stdout)
    assert told["out"] == str(tmp_path / "out")
    names = ["0000-4.png", "0000-5.png", "0001-4.png", "0001-5.png"]
    assert [path["path"] for path in told["pictures"]] == [str(tmp_path / "out" / name) for name in names]
    assert [path["prompt"] for path in told["pictures"]] == ["a red circle"] * 2 + ["two blue squares"] * 2
    assert all(path["seconds"] > 0 for path in told["pictures"])
    # a batch makes what each alone would
    run(pixel_folder, "--prompt", "two blue squares", *PROMPT[2:], "--seed", 4, "--out", tmp_path / "alone.png")
    alone, beside = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("alone.png", f"out/{names[2]}"))
    assert np.abs(alone - beside).max() <= 1


def test_json_lines_of_prompts(pixel_folder, tmp_path):
    record = {"id": "7", "prompt": "a red circle", "major_class": "shape", "sub_class": "circle"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    run(pixel_folder, "--prompts", tmp_path / "a.jsonl", *PROMPT[2:], "--out", tmp_path / "a.png")
    assert read_record(tmp_path / "a.png")["prompt"] == "a red circle"


def test_what_is_there_is_not_made_again(pixel_folder, tmp_path):
    arguments = (*PROMPT, "--out", tmp_path / "out", "--json")
    run(pixel_folder, *arguments, "--seed", 1)
    before = (tmp_path / "out" / "0000-1.png").stat().st_mtime_ns
    told = json.loads(run(pixel_folder, *arguments, "--seed", 1, "--seed", 2).stdout)["pictures"]
    assert told[0]["seconds"] is None
    assert told[1]["seconds"] > 0
    assert (tmp_path / "out" / "0000-1.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change", [("--steps", 3), ("--guidance", 3.0), ("--prompt", "a cat"), ("--dtype", "bfloat16")]
)
def test_a_picture_with_other_settings_is_refused(pixel_folder, tmp_path, change):
    out = tmp_path / "a.png"
    run(pixel_folder, *PROMPT, "--out", out)
    told = dict(zip(PROMPT[::2], PROMPT[1::2], strict=True)) | dict([change])
    with pytest.raises(StateError, match="other settings") as caught:
        run(pixel_folder, *(part for pair in told.items() for part in pair), "--out", out)
    assert str(change[1]) in caught.value.found


def test_a_picture_of_others_is_not_overwritten(pixel_folder, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(StateError, match="other settings"):
        run(pixel_folder, *PROMPT, "--out", tmp_path / "a.png")


def test_memory_makes_tiles_and_the_same_picture(pixel_folder, tmp_path):
    """A budget between what tiles and what the whole picture takes, as told by one that is too small."""
    size = ("--prompt", "a red circle", "--steps", 1, "--size", 768)
    with pytest.raises(ConfigError, match="smallest tiles") as caught:
        run(pixel_folder, *size, "--memory", "1MB", "--out", tmp_path / "a.png")
    enough = int(caught.value.expected.split("MB")[0]) + 30  # the process grows a little in between
    told = json.loads(run(pixel_folder, *size, "--memory", f"{enough}MB", "--out", tmp_path / "a.png", "--json").stdout)
    assert told["pictures"][0]["tile_px"] < 768
    told = json.loads(run(pixel_folder, *size, "--memory", "100GB", "--out", tmp_path / "b.png", "--json").stdout)
    assert told["pictures"][0]["tile_px"] is None
    tiles, whole = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("a.png", "b.png"))
    assert np.abs(tiles - whole).max() <= 1
    assert whole.std() > 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_a_disk_without_room_is_found_before_sampling(pixel_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 32 * 32 - 1))
    with pytest.raises(OutputFolderError, match="no room"):
        run(pixel_folder, *PROMPT, "--out", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 32 * 32))
    run(pixel_folder, *PROMPT, "--out", tmp_path / "a.png")
