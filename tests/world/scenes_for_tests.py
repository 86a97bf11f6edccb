"""Scenes and spoiled pictures that several tests of the world share."""

import io
import random

import numpy as np
from PIL import Image
from scipy import ndimage

from latent2pixel.world.captions import TASKS
from latent2pixel.world.render import render
from latent2pixel.world.scenes import draw_scene


def heldout_scenes(level, num_per_task, *, seed=5, tasks=TASKS):
    generator = random.Random(seed)
    return [draw_scene(level, "heldout", generator=generator, task=task) for task in tasks for _ in range(num_per_task)]


def picture_of(scene, size_px=128):
    return render(scene, size_px)


def blurred(image_HWC):
    """Blur by one 64th of the width, a full pixel of the smallest picture."""
    sigma = image_HWC.shape[0] / 64
    return ndimage.gaussian_filter(image_HWC.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)


def compressed(image_HWC, quality=50):
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
