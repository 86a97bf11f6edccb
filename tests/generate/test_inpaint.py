"""Inpainting by the stock pipelines: what is not masked comes back bit for bit."""

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForInpainting
from PIL import Image
from tests.generate.tiled import pipeline
from tests.tiny import PROMPTS, size_px, tiny_source

CELL = 8
"""Pixels a latent cell at patch 16: the pipelines shrink a mask to one value for each."""
IMAGE_HW3 = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def painted(pipe, mask_HW, name, **options):
    """Return what the stock inpainting pipeline makes of the image, (H, W, 3)."""
    inpaint = AutoPipelineForInpainting.from_pipe(pipe)
    inpaint.set_progress_bar_config(disable=True)
    return np.asarray(
        inpaint(
            prompt=PROMPTS[0],
            image=Image.fromarray(IMAGE_HW3),
            mask_image=Image.fromarray(mask_HW),
            strength=0.6,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(0),
            **size_px(name),
            **tiny_source(name).UNGUIDED,
            **options,
        ).images[0]
    )


def mask_of(rows, columns):
    mask_HW = np.zeros((64, 96), np.uint8)
    mask_HW[slice(*rows), slice(*columns)] = 255
    return mask_HW


def whole_cells(mask_HW):
    """Grow a mask to all cells that it touches, as docs/ultra-high-resolution.md does."""
    cells_hw = mask_HW.reshape(64 // CELL, CELL, 96 // CELL, CELL).max((1, 3))
    return cells_hw.repeat(CELL, 0).repeat(CELL, 1)


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("name", ["z_image", "flux", "qwen"])
def test_unmasked_pixels_come_back_bit_for_bit(name, lifted):
    mask_HW = mask_of((16, 40), (24, 64))
    result_HW3 = painted(pipeline(name, lifted=lifted), mask_HW, name)
    assert np.array_equal(result_HW3[mask_HW == 0], IMAGE_HW3[mask_HW == 0])
    assert (result_HW3[mask_HW > 0] != IMAGE_HW3[mask_HW > 0]).mean() > 0.9


@pytest.mark.parametrize("name", ["z_image", "flux", "qwen"])
def test_a_mask_of_single_pixels_by_way_of_whole_cells(name):
    """The recipe of the docs: paint all cells that the mask touches, then keep the mask's own pixels of it."""
    mask_HW = mask_of((13, 41), (27, 62))
    result_HW3 = painted(pipeline(name), whole_cells(mask_HW), name)
    kept = np.asarray(
        Image.composite(Image.fromarray(result_HW3), Image.fromarray(IMAGE_HW3), Image.fromarray(mask_HW))
    )
    assert np.array_equal(kept[mask_HW == 0], IMAGE_HW3[mask_HW == 0])
    assert (kept[mask_HW > 0] != IMAGE_HW3[mask_HW > 0]).mean() > 0.9


def test_masks_are_seen_by_cells():
    """What the recipe is for: a cell is painted if its first pixel is masked, all of it or none."""
    mask_HW = mask_of((13, 41), (27, 62))
    result_HW3 = painted(pipeline("z_image"), mask_HW, "z_image")
    seen_HW = mask_HW[::CELL, ::CELL].repeat(CELL, 0).repeat(CELL, 1)
    changed_HW = (result_HW3 != IMAGE_HW3).any(-1)
    assert not changed_HW[seen_HW == 0].any()
    assert changed_HW[seen_HW > 0].mean() > 0.9
    assert changed_HW[mask_HW == 0].any()


@pytest.mark.parametrize("name", ["z_image", "flux", "qwen"])
def test_bfloat16_pipelines_too(name):
    """They round the pixels between, by a quarter of a level at most (2**-9 of 2 / 255)."""
    assert len(np.unique(IMAGE_HW3)) == 256
    mask_HW = mask_of((16, 40), (24, 64))
    result_HW3 = painted(pipeline(name).to(torch.bfloat16), mask_HW, name)
    assert np.array_equal(result_HW3[mask_HW == 0], IMAGE_HW3[mask_HW == 0])


def test_sd3_refuses():
    """Its inpainting pipeline takes transformers of 16 or 33 channels only."""
    with pytest.raises(ValueError, match="channels"):
        painted(pipeline("sd3"), mask_of((16, 40), (24, 64)), "sd3")
