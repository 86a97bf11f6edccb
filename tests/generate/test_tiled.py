"""Pictures in tiles against those of the stock pipelines, from the same seed; killed and gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.generate.tiled import call_of, in_tiles, in_tiles_floats, pipeline, stopping_after, whole
from tests.tiny import FAMILIES, patch_px
from torch.nn import functional

from latent2pixel.errors import ConfigError, StateError
from latent2pixel.families import load_family
from latent2pixel.generate.tiled import UnfinishedImage, draw_noise
from latent2pixel.io.float_image import FloatImage

REFUSED = {
    "ideogram4": "counts the values of a patch",
    "bria_fibo2": "counts the values of a patch",
    "pixart": "DPMSolverMultistepScheduler",
    "sana": "DPMSolverMultistepScheduler",
}
"""Transformers that take no embedded patches; schedulers that remember earlier steps."""
RESCALED_GUIDANCE = ("qwen", "nucleus", "lumina2", "longcat")
"""Pipelines that bring the guided answer back to the length of the other."""
OTHER_NOISE = ("kandinsky5",)
"""Pipelines that draw their noise in an order of their own, here for channels last."""
SEVERAL_TOLD = (
    *("z_image", "flux", "sd3", "qwen", "krea2", "nucleus", "cogview4", "ernie", "chroma"),
    *("lumina2", "qwen21", "bria_fibo"),
)
"""Families of each way to tell positions."""
EXACT = 1e-5
"""Of images of about unit variance, after three steps: rounding in other orders leaves 3e-6 at most."""


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in (*REFUSED, *OTHER_NOISE)])
def test_tiles_make_the_picture_of_the_stock_pipeline(name, tmp_path):
    pipe = pipeline(name)
    call = call_of(name, pipe, guided=name not in RESCALED_GUIDANCE)
    made = in_tiles_floats(pipe, call, tmp_path / "a", seed=5, tile_px=2 * patch_px(name))
    torch.testing.assert_close(made, whole(name, pipe, call, seed=5), atol=EXACT, rtol=0)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["z_image", "flux", "sd3", "ernie"])
def test_lifted_models_too(name, guided, tmp_path):
    """Their ends read the image twice; one family of each way to take patches."""
    pipe = pipeline(name, lifted=True)
    call = call_of(name, pipe, guided=guided)
    made = in_tiles_floats(pipe, call, tmp_path / "a", seed=5, tile_px=3 * patch_px(name))
    torch.testing.assert_close(made, whole(name, pipe, call, seed=5), atol=EXACT, rtol=0)


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("name", SEVERAL_TOLD)
def test_tokens_that_are_several_of_the_pipelines(name, lifted, tmp_path):
    """Patch 48, whose tokens hold 3 x 3 of the pipeline's."""
    pipe = pipeline(name, lifted=lifted, patch_size=48)
    call = call_of(name, pipe, guided=name not in RESCALED_GUIDANCE, grid=(2, 3))
    made = in_tiles_floats(pipe, call, tmp_path / "a", seed=5, tile_px=48)
    torch.testing.assert_close(made, whole(name, pipe, call, seed=5), atol=EXACT, rtol=0)


def test_noise_of_another_order_is_noise_and_the_rest_is_the_same(tmp_path):
    """Whole from the noise that the tiles drew: the loop is the pipeline's even where its noise is not."""
    (name,) = OTHER_NOISE
    pipe = pipeline(name)
    call = call_of(name, pipe, guided=True)
    image = FloatImage(tmp_path / "noise", height=call["height"], width=call["width"])
    draw_noise(image, factor=pipe.transformer.codec_factor, fold=1, generator=torch.Generator().manual_seed(5))
    noise_BCHW = image.read_rows(0, call["height"])[None]
    assert noise_BCHW.mean().abs() < 0.02
    assert (noise_BCHW.std() - 1).abs() < 0.02
    folded = functional.pixel_unshuffle(noise_BCHW, pipe.transformer.codec_factor)
    given = {**call, "latents": load_family(name).sample(folded, {})}
    made = in_tiles_floats(pipe, call, tmp_path / "a", seed=5, tile_px=2 * patch_px(name))
    torch.testing.assert_close(made, whole(name, pipe, given, seed=5), atol=EXACT, rtol=0)


@pytest.mark.parametrize("tile", [16, 48, 64, 96])
def test_any_tile_makes_the_same(tile, tmp_path):
    pipe = pipeline("z_image", lifted=True)
    call = call_of("z_image", pipe, guided=True)
    made = in_tiles_floats(pipe, call, tmp_path / "a", seed=1, tile_px=tile)
    torch.testing.assert_close(made, whole("z_image", pipe, call, seed=1), atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_tiles_cannot_do_is_refused(name, tmp_path):
    pipe = pipeline(name)
    with pytest.raises(ConfigError, match="cannot sample in tiles") as caught:
        in_tiles(pipe, call_of(name, pipe, guided=False), tmp_path / "a.png", seed=0, tile_px=patch_px(name))
    assert REFUSED[name] in caught.value.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", RESCALED_GUIDANCE)
def test_guidance_that_looks_at_lengths_is_refused(name, tmp_path):
    pipe = pipeline(name)
    with pytest.raises(ConfigError, match="cannot sample in tiles") as caught:
        in_tiles(pipe, call_of(name, pipe, guided=True), tmp_path / "a.png", seed=0, tile_px=patch_px(name))
    assert "no weighted sum" in caught.value.found


@pytest.mark.parametrize(("factor", "fold"), [(8, 1), (8, 2), (4, 1)])
def test_noise_is_that_of_one_draw(factor, fold, tmp_path):
    """A pipeline draws its folded map at once; here it comes a few rows at a time."""
    image = FloatImage(tmp_path / "a", height=64, width=96)
    draw_noise(image, factor=factor, fold=fold, generator=torch.Generator().manual_seed(3))
    cells = 3 * factor**2 * fold**2
    drawn = torch.randn(
        1, cells, 64 // (factor * fold), 96 // (factor * fold), generator=torch.Generator().manual_seed(3)
    )
    if fold > 1:
        drawn = functional.pixel_shuffle(drawn, fold)
    assert torch.equal(image.read_rows(0, 64), functional.pixel_shuffle(drawn, factor)[0])


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
def test_stopped_anywhere_it_goes_on_to_the_same_picture(rows, tmp_path):
    """Two rows of tiles a step: within the first step, within others, and between two."""
    pipe = pipeline("z_image")
    call = call_of("z_image", pipe, guided=True)
    in_tiles(pipe, call, tmp_path / "straight.png", seed=2, tile_px=32)
    out = tmp_path / "stopped.png"
    with pytest.raises(KeyboardInterrupt):
        in_tiles(pipe, call, out, seed=2, tile_px=32, after_rows=stopping_after(rows))
    unfinished = UnfinishedImage.beside(out, size_px=(64, 96))
    assert unfinished.last_step() == (rows - 1) // 2
    assert not out.exists()
    in_tiles(pipe, call, out, seed=2, tile_px=32)
    assert out.read_bytes() == (tmp_path / "straight.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped.png", "straight.png"]


def test_only_what_is_left_is_done_again(tmp_path):
    pipe = pipeline("z_image")
    call = call_of("z_image", pipe, guided=False)
    with pytest.raises(KeyboardInterrupt):
        in_tiles(pipe, call, tmp_path / "a.png", seed=2, tile_px=32, after_rows=stopping_after(5))
    counts = []
    in_tiles(pipe, call, tmp_path / "a.png", seed=2, tile_px=32, after_rows=counts.append)
    assert counts == [4, 1, 1]


def test_what_was_begun_with_another_seed_is_refused(tmp_path):
    pipe = pipeline("z_image")
    call = call_of("z_image", pipe, guided=False)
    with pytest.raises(KeyboardInterrupt):
        in_tiles(pipe, call, tmp_path / "a.png", seed=2, tile_px=32, after_rows=stopping_after(3))
    with pytest.raises(StateError, match="other settings") as caught:
        in_tiles(pipe, call, tmp_path / "a.png", seed=3, tile_px=32)
    assert caught.value.found == "seed = 3"
    assert caught.value.expected == "seed = 2"


def test_a_damaged_running_image_is_named(tmp_path):
    pipe = pipeline("z_image")
    call = call_of("z_image", pipe, guided=False)
    with pytest.raises(KeyboardInterrupt):
        in_tiles(pipe, call, tmp_path / "a.png", seed=2, tile_px=32, after_rows=stopping_after(3))
    path = UnfinishedImage.beside(tmp_path / "a.png", size_px=(64, 96)).image(1).path
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StateError, match="not complete"):
        in_tiles(pipe, call, tmp_path / "a.png", seed=2, tile_px=32)


KILLED = """
import sys
from pathlib import Path
from tests.generate.tiled import call_of, in_tiles, pipeline
pipe = pipeline("z_image")
call = {**call_of("z_image", pipe, guided=True), "num_inference_steps": 500}
in_tiles(pipe, call, Path(sys.argv[1]), seed=4, tile_px=32)
"""


def test_killed_without_a_word_a_whole_step_is_kept(tmp_path):
    """SIGKILL at whatever it does; what is read afterwards is the image after some whole step."""
    out, repository = tmp_path / "a.png", Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], cwd=repository)
    unfinished = UnfinishedImage.beside(out, size_px=(64, 96))
    while (unfinished.last_step() or 0) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    step = unfinished.last_step()
    pipe = pipeline("z_image")
    call = {**call_of("z_image", pipe, guided=True), "num_inference_steps": 500}
    with pytest.raises(KeyboardInterrupt):
        in_tiles(pipe, call, tmp_path / "b.png", seed=4, tile_px=32, after_rows=stopping_after(2 * step + 1))
    straight = UnfinishedImage.beside(tmp_path / "b.png", size_px=(64, 96)).image(step)
    assert torch.equal(unfinished.image(step).read_rows(0, 64), straight.read_rows(0, 64))
