"""A source's pictures scaled up against a pixel model's of the larger size: drawn, or gone on with, and on one page."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from latent2pixel.data.listing import read_entries
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import synthesize
from latent2pixel.device import fastest_device
from latent2pixel.errors import ConfigError
from latent2pixel.families.base import require_pixel_pipeline
from latent2pixel.generate import prepare_for_sampling, remembering
from latent2pixel.io.packed_image import ImageFile
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline, parse_dtype
from latent2pixel.report.crops_page import CropPair, CropsPage, write_crops_page

PAGE_NAME = "crops.html"
USERS = "user"
"""Class of prompts that a user gives."""


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """What is drawn and shown."""

    size_px: int = 4096
    """Width and height of the pixel model's pictures."""
    source_size_px: int = 1024
    """Width and height of the source's."""
    num_steps: int = 30
    """Sampling steps of both."""
    guidance_scale: float = 2.0
    """Guidance of both."""
    seed: int = 0
    """Seed of the noise, which differs with the size all the same."""
    dtype: str | None = None
    """float32, bfloat16 or float16; none: as stored."""
    upsampling: str = "lanczos"
    """How the source's pictures are scaled up: lanczos or bicubic."""
    crop_px: int = 320
    """Width and height of a crop."""
    num_crops: int = 3
    """Crops of each picture, 5 at most."""


def compare_crops(
    source: str | Path,
    pixel: str | Path,
    prompts: Sequence[str],
    out: Path,
    *,
    config: CropsConfig,
    announce: Callable[[str], object] = lambda _: None,
) -> Path:
    """Let both models draw prompts, each at its size, and write the page of crops; the same call again goes on.

    Args:
        source: Latent pipeline: a folder, or ``owner/name`` on the Hub.
        pixel: Pixel pipeline, likewise.
        prompts: What to show, each once.
        out: Receives ``source`` and ``pixel`` with the pictures, and ``crops.html``.
        config: What to draw and show.
        announce: Is told of every stage.

    Returns:
        The page's path.

    Raises:
        ConfigError: There is no prompt, or a setting does not exist.
        SourceError: A pipeline cannot be found or loaded, or ``pixel`` is none of a pixel model.
        GeometryError: A model cannot make its size, or the sizes do not fit together.
        StateError: ``out`` holds pictures of other models or settings.
        OutputFolderError: ``out`` cannot be written, or the disk is full.
    """
    page = CropsPage(  # refused now if at all, not behind hours of drawing
        source=Path(source).name,
        pixel=Path(pixel).name,
        upsampling=config.upsampling,
        crop_px=config.crop_px,
        num_crops=config.num_crops,
    )
    if not prompts or config.source_size_px >= config.size_px:
        raise ConfigError(
            "There is nothing to compare",
            found=f"{len(prompts)} prompts, {config.source_size_px} px scaled up to {config.size_px} px",
            expected="a prompt or more, and a source's size below the pixel model's",
            fix="Give --prompt, once for each, and a larger --size.",
        )
    if config.crop_px > config.size_px:
        raise ConfigError(
            "A crop is larger than the picture that it is of",
            found=f"crop_px={config.crop_px}, pictures of {config.size_px} px",
            expected=f"crops of {config.size_px} px at most",
            fix="Choose a smaller --set crop_px=, or a larger --size.",
        )
    wanted = [
        Prompt(id=f"{index:04d}", prompt=text, major_class=USERS, sub_class=USERS) for index, text in enumerate(prompts)
    ]
    # The pixel model first: it may refuse the size.
    for name, model, size_px in (("pixel", pixel, config.size_px), ("source", source, config.source_size_px)):
        announce(f"{name} draws at {size_px} px")
        _draw(find_pipeline_folder(model), wanted, out / name, size_px=size_px, is_pixel=name == "pixel", config=config)
    files = {name: _files(out / name) for name in ("source", "pixel")}
    pairs = [
        CropPair(prompt=text, seed=seed, source_file=files["source"][text, seed], pixel_file=file)
        for (text, seed), file in files["pixel"].items()
    ]
    return write_crops_page(replace(page, pairs=pairs), out / PAGE_NAME)


def _draw(
    path: Path, prompts: Sequence[Prompt], folder: Path, *, size_px: int, is_pixel: bool, config: CropsConfig
) -> None:
    """Let a model draw, or go on drawing."""
    if is_pixel:
        require_pixel_pipeline(path)
    pipe = open_pipeline(path, dtype=parse_dtype(config.dtype))
    if is_pixel:
        pipe.transformer.grid_of_size(size_px, size_px)
        prepare_for_sampling(pipe)
    with remembering(pipe) if is_pixel else nullcontext():
        synthesize(
            pipe.to(fastest_device()),
            prompts,
            folder,
            seeds_per_prompt=1,
            image_size_px=size_px,
            num_steps=config.num_steps,
            guidance_scale=config.guidance_scale,
            seed=config.seed,
            source=source_facts(path),
        )


def _files(folder: Path) -> dict[tuple[str, int], ImageFile]:
    """Return the pictures of a folder by prompt and seed, in the order of the prompts."""
    return {(entry.prompt, entry.seed): entry.path for entry in read_entries(folder)}
