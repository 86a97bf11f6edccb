"""Patches for 4K and 8K, and images as large as a transformer has positions for, with every family's stock pipeline."""

from pathlib import Path

import pytest
import torch
from tests.tiny import (
    FAMILIES,
    PROMPTS,
    OracleHead,
    noise,
    patch_px,
    running_latents,
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

ANY_PATCH = [name for name in FAMILIES if load_family(name).pipeline_patch_px is None]
HEADS = {32: (2, 2, 4, 4, 4), 64: (2, 2, 2, 4, 4, 4), 128: (2, 2, 2, 4, 4, 4)}
"""A level for each halving down to the patch; at 128 the published head of patch 64, whose features are upsampled."""
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
    start = functional.pixel_unshuffle(noise(*target.shape, seed=2), pipe.transformer.factor)
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


@pytest.mark.parametrize("name", ANY_PATCH)
def test_patch_160_is_refused_with_what_to_do_instead(name):
    with pytest.raises(GeometryError, match="patch size 160") as caught:
        tiny_pixel_pipeline(name, patch_size=160, head=HEADS[32])
    assert "10240 px, is 80 x 80 tokens of patch 128" in str(caught.value)


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
