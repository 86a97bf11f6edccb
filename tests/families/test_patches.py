"""Patches for 4K, 8K and 10K, and images as large as a transformer has positions for, with all stock pipelines."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from tests.families.calls import equal, recorded_calls, shown
from tests.tiny import (
    FAMILIES,
    PROMPTS,
    OracleHead,
    noise,
    patch_px,
    running_latents,
    tiny_lift,
    tiny_pipeline,
    tiny_pixel_pipeline,
    tiny_source,
    whole_grid,
)
from torch.nn import functional

from latent2pixel.errors import GeometryError
from latent2pixel.families import load_family
from latent2pixel.families.catalogue import releases
from latent2pixel.families.limits import limits_table
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.predict import predict_velocity

ANY_PATCH = [name for name in FAMILIES if load_family(name).only_patch_px is None]
FLOWS = [name for name in ANY_PATCH if load_family(name).objective == "flow"]
HEADS = {32: (2, 2, 4, 4, 4), 64: (2, 2, 2, 4, 4, 4), 128: (2, 2, 2, 4, 4, 4), 160: (2, 2, 4, 4, 4)}
"""A level for each halving down to the patch; at 128 the published head of patch 64, and at 160 five halvings, whose
features are upsampled."""
LIMITED = {
    "z_image": (64, 64),
    "sd3": (24, 24),
    "cogview3": (24, 24),
    "lumina2": (64, 64),
    "auraflow": (16, 16),
    "qwen": (6144, 6144),
    "nucleus": (6144, 6144),
    "qwen21": (2048, 2048),
    "kandinsky5": (128, 128),
    "bria_fibo2": (64, 64),
}
"""Rows and columns of the tiny sources; the others compute positions of any image."""
LONG = 520
"""Tokens along one axis: more than the largest common table of positions, 512, holds."""


@pytest.mark.parametrize("patch", HEADS)
@pytest.mark.parametrize("name", ANY_PATCH)
@torch.no_grad()
def test_stock_pipeline_serves_larger_patches(name, patch):
    """One step of a perfect model: codec, packing and pixel order agree, or the picture is another."""
    family, source = load_family(name), tiny_source(name)
    if patch <= patch_px(name):
        return
    pipe = tiny_pixel_pipeline(name, patch_size=patch, head=HEADS[patch])
    rows, columns = whole_grid(name, (2, 3))
    target = noise(1, 3, rows * patch, columns * patch, seed=1).clamp(-1, 1)
    head = OracleHead(target, family=family, sigma=0.0 if family.objective == "flow" else first_sigma(family))
    pipe.transformer.head = head
    if family.objective == "flow":  # multistep schedulers begin just before pure noise
        pipe.transformer.register_forward_pre_hook(lambda *_: setattr(head, "sigma", pipe.scheduler.sigmas[0]))
    start = functional.pixel_unshuffle(noise(*target.shape, seed=2), pipe.transformer.codec_factor)
    adapt = getattr(source, "adapt", lambda pipe, call: call)
    call = {
        "prompt": list(PROMPTS[:1]),
        "height": rows * patch,
        "width": columns * patch,
        "num_inference_steps": 1,
        "output_type": "pt",
        "latents": running_latents(name, start),
        **source.UNGUIDED,
    }
    images = family.images(pipe, **adapt(pipe, call))
    # As in the contract tests at the source's own patch: roundings, which DDPM divides by the image's small share.
    atol = 1e-5 if family.objective == "flow" else 2e-3
    torch.testing.assert_close(images, target / 2 + 0.5, atol=atol, rtol=0)


def one_step(name, pipe, grid, **options):
    """Run the stock pipeline on an image of so many tokens; return the image and the call of its transformer."""
    calls, patch = recorded_calls(pipe.transformer), pipe.transformer.config["pixel_patch_size"]
    adapt = getattr(tiny_source(name), "adapt", lambda pipe, call: call)
    call = {
        "prompt": list(PROMPTS[-1:]),
        "height": grid[0] * patch,
        "width": grid[1] * patch,
        "num_inference_steps": 1,
        "output_type": "pt",
        "generator": torch.Generator().manual_seed(0),
        **tiny_source(name).UNGUIDED,
    }
    images = load_family(name).images(pipe, **adapt(pipe, call) | options)
    return images, calls[0]


@pytest.mark.parametrize("name", ANY_PATCH)
@torch.no_grad()
def test_trunk_sees_several_tokens_of_the_pipeline_as_one(name):
    """Three times the source's patch: no pipeline folds by that, so it counts 3 x 3 tokens for each of the trunk's."""
    family, grid = load_family(name), whole_grid(name, (2, 3))
    pipe = tiny_pixel_pipeline(name, patch_size=3 * patch_px(name))
    model = pipe.transformer
    _, sent = one_step(name, pipe, grid)
    assert model.pipeline_tokens(grid) == 9 * grid[0] * grid[1]
    noisy = functional.pixel_shuffle(family.map_of(sent), model.codec_factor)
    assert model.grid_of(noisy) == grid
    conditioning = family.collate(model, family.encode(pipe, PROMPTS[-1:]), grid)
    mine = {key: value for key, value in shown(name, model.call_of_trunk(sent, grid)).items() if key in conditioning}
    assert [key for key, value in conditioning.items() if not equal(mine.get(key), value)] == []
    clock = {family.timestep_argument: sent[family.timestep_argument]}
    native = model(**{**sent, "return_dict": False})[0]
    image = model(**{family.sample_argument: noisy}, **clock, **conditioning, return_dict=False)[0]
    folded = functional.pixel_unshuffle(image, model.codec_factor)
    assert equal(native, family.output(folded, sent))


def noise_levels(name, pipe, grid):
    """Return those of four steps on an image of so many tokens."""
    one_step(name, pipe, grid, num_inference_steps=4)
    return pipe.scheduler.sigmas[:4]


@pytest.mark.parametrize("name", [name for name in FLOWS if name != "flux2"])
def test_noise_levels_are_those_of_as_many_tokens_of_the_trunk(name):
    """The source's shift may grow with tokens, and the pipeline counts 3 x 3 times as many."""
    grid = whole_grid(name, (3, 4))
    doubled, tripled = (tiny_pixel_pipeline(name, patch_size=factor * patch_px(name)) for factor in (2, 3))
    assert tripled.transformer.pipeline_tokens(grid) == 9 * grid[0] * grid[1]
    # Ideogram 4 clamps the first level before its scheduler shifts it, by 1e-4; the pipeline's tokens are off by 0.004.
    torch.testing.assert_close(noise_levels(name, tripled, grid), noise_levels(name, doubled, grid), atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", FLOWS)
def test_noise_levels_of_a_lift_are_those_of_an_image_of_this_size(name):
    """Images of 12 x 12 of the source's tokens, in patches of 2 x 2 and 3 x 3 of them, lifted with the same scale."""
    levels = []
    for factor in (2, 3):
        fit = replace(tiny_lift(name).spread(factor), scale=2.0)
        pipe = tiny_pixel_pipeline(name, patch_size=factor * patch_px(name), lift=fit)
        levels.append(noise_levels(name, pipe, (12 // factor, 12 // factor)))
    torch.testing.assert_close(*levels)


def test_a_shift_that_only_the_pipeline_computes_is_that_of_1024_px():
    """FLUX.2: no config holds its numbers, so where tokens are counted otherwise they cannot be followed."""
    pipe, family = tiny_pixel_pipeline("flux2", patch_size=48), load_family("flux2")
    expected = family.shift(tiny_pipeline("flux2").scheduler, 64 * 64)
    assert family.shift(pipe.scheduler, 1) == family.shift(pipe.scheduler, 10**6) == expected


@pytest.mark.parametrize("name", ["z_image", "flux", "auraflow", "sana"])
@torch.no_grad()
def test_patch_160_survives_a_folder(name, tmp_path):
    """What the pipeline counts with and what the trunk is built with differ; one config has to say both."""
    pipe = tiny_pixel_pipeline(name, patch_size=160, head=HEADS[160])
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    before, after = (one_step(name, each, (1, 2))[0] for each in (pipe, loaded))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)  # memory formats differ, and with them the sums


@pytest.mark.parametrize(
    ("name", "patch", "expected"), [("glm", 32, "patch size 16"), ("lumina2", 24, "multiple of 16")]
)
def test_what_a_pipeline_cannot_serve_is_refused(name, patch, expected):
    with pytest.raises(GeometryError, match="stock pipeline of this source") as caught:
        tiny_pixel_pipeline(name, patch_size=patch, head=(4, 4))
    assert expected in caught.value.expected


def first_sigma(family):
    """Return the noise level of the first of one step of DDPM."""
    return family.sigma(torch.tensor([999])).item()


def velocity(name, pipe, grid):
    """Run the pixel model on an image of so many tokens, with random weights."""
    family = load_family(name)
    told = getattr(tiny_source(name), "told", lambda grid: {})(grid)
    items = [item | told for item in family.encode(pipe, PROMPTS[:1])]
    noisy = noise(1, 3, *(side * pipe.transformer.config["pixel_patch_size"] for side in grid))
    with torch.no_grad():
        conditioning = family.collate(pipe.transformer, items, grid)
        return predict_velocity(pipe.transformer, noisy, torch.tensor([0.5]), conditioning)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in LIMITED])
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_images_of_any_length_where_positions_are_computed(name, side):
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    limit = family.position_limit(pipe.transformer.config)
    length = LONG if limit == PositionLimit() else limit.oblong_tokens
    grid = whole_grid(name, (length, 1) if side == "rows" else (1, length))
    assert velocity(name, pipe, grid).isfinite().all()


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_images_up_to_the_last_position(name, side):
    """As many tokens as the limit says run; one more is refused, by forward and by the check before a run alike."""
    pipe = tiny_pixel_pipeline(name)
    most = load_family(name).position_limit(tiny_pipeline(name).transformer.config)
    assert (most.rows, most.columns) == LIMITED[name]
    long = most.rows if side == "rows" else most.columns
    other = whole_grid(name, (1, 1))[0]
    longest, beyond = ((size, other) if side == "rows" else (other, size) for size in (long, long + other))
    assert velocity(name, pipe, longest).isfinite().all()
    with pytest.raises(GeometryError, match=f"at most {most.rows} x {most.columns} tokens"):
        velocity(name, pipe, beyond)
    patch = patch_px(name)
    with pytest.raises(GeometryError, match=f"{beyond[0]} x {beyond[1]} tokens"):
        pipe.transformer.grid_of_size(beyond[0] * patch, beyond[1] * patch)


def test_square_images_of_any_size_where_others_are_padded():
    pipe = tiny_pixel_pipeline("hidream")
    assert velocity("hidream", pipe, (9, 9)).isfinite().all()
    with pytest.raises(GeometryError, match="at most 64 tokens, or as many rows as columns"):
        velocity("hidream", pipe, (5, 13))


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_are_not_binned(name):
    """Some stock pipelines make the nearest size of a list, about 1 megapixel, and scale it to what was asked for."""
    family, pipe, seen = load_family(name), tiny_pixel_pipeline(name), []
    size = tuple(side * patch_px(name) for side in whole_grid(name, (3, 5)))
    pipe.transformer.head.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0].shape[-2:])))
    adapt = getattr(tiny_source(name), "adapt", lambda pipe, call: call)
    call = {
        "prompt": list(PROMPTS[:1]),
        "height": size[0],
        "width": size[1],
        "num_inference_steps": 1,
        "output_type": "pt",
        **tiny_source(name).UNGUIDED,
    }
    assert family.images(pipe, **adapt(pipe, call)).shape[-2:] == size
    assert set(seen) == {size}


def test_page_shows_the_limits():
    """If this fails: put the output of `l2p families --limits` in the place of the page's table."""
    page = (Path(__file__).parents[2] / "docs" / "ultra-high-resolution.md").read_text(encoding="utf-8")
    assert limits_table(releases()) in page
