"""The images on which a conversion is fitted: a folder of them, or what the source makes of prompts."""

import math
from pathlib import Path

from latent2pixel.convert.images import NUM_FIT_IMAGES, FitImages
from latent2pixel.data.dataset import FirstImages, ImageFolderDataset
from latent2pixel.data.prompts import load_prompts
from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import synthesize
from latent2pixel.device import fastest_device
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline

NUM_STEPS, GUIDANCE_SCALE = 30, 2.0
"""As `l2p data synthesize` makes images by default."""


def load_fit_images(folder: Path, size_px: int) -> FitImages:
    """Return the first images of a folder, as ``data.synthesize`` writes it.

    Raises:
        DataError: The folder holds no images and prompts.
    """
    return FitImages(name=str(folder), images=FirstImages(ImageFolderDataset(folder, size_px), NUM_FIT_IMAGES))


def make_fit_images(
    source: str | Path, prompts: Path, folder: Path, *, size_px: int, seed: int, num_images: int = NUM_FIT_IMAGES
) -> FitImages:
    """Let the source make images of prompts, or go on where an earlier call stopped, and return them.

    Args:
        source: Pipeline folder, or ``owner/name`` on the Hub.
        prompts: JSON lines of prompts; of a longer file the first ones.
        folder: Receives the images.
        size_px: Their width and height.
        seed: Seed of all images.
        num_images: How many at least, the same number of each prompt.

    Raises:
        L2PError: Source, prompts or folder cannot be used.
    """
    wanted = load_prompts(prompts)[:num_images]
    pipeline_folder = find_pipeline_folder(source)
    pipe = open_pipeline(pipeline_folder)
    synthesize(
        pipe.to(fastest_device()),
        wanted,
        folder,
        seeds_per_prompt=math.ceil(num_images / len(wanted)),
        image_size_px=size_px,
        num_steps=NUM_STEPS,
        guidance_scale=GUIDANCE_SCALE,
        seed=seed,
        source=source_facts(pipeline_folder),
    )
    return load_fit_images(folder, size_px)
