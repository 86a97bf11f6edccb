"""All pictures of a call: what is there already is left, what can go wrong is found before the first is made."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from latent2pixel.device import fastest_device
from latent2pixel.errors import ConfigError
from latent2pixel.families import family_of
from latent2pixel.generate.budget import choose_tile, peak_bytes, require_within
from latent2pixel.generate.picture import Picture, PictureSettings
from latent2pixel.generate.prepare import prepare_for_sampling, remembering
from latent2pixel.generate.sample import sample_whole
from latent2pixel.generate.script import read_script
from latent2pixel.generate.size import require_size
from latent2pixel.generate.tiled import STEPS_ON_DISK, UnfinishedImage, sample_in_tiles
from latent2pixel.io.disk_space import require_space
from latent2pixel.io.float_image import PIXEL_BYTES
from latent2pixel.io.images import bytes_of
from latent2pixel.io.png_rows import write_png

PNG_PIXEL_BYTES = 3
"""Of a picture that cannot be compressed; rows and chunks add less than a thousandth."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a picture."""

    picture: Picture
    seconds: float | None
    """Time of making it; None: it was there already."""
    tile_px: int | None = None
    """Tile in which it was made; None: whole."""


def generate_pictures(
    pipe: Any,
    pictures: Sequence[Picture],
    settings: PictureSettings,
    *,
    batch_size: int = 1,
    budget_bytes: int | None = None,
    compiled: bool = False,
) -> list[Made]:
    """Make the pictures that are not there yet, by the stock pipeline where they fit into memory, otherwise in tiles.

    Args:
        pipe: Pixel pipeline, as ``load_pipeline`` returns it.
        pictures: What to make, and where to.
        settings: Of all of them.
        batch_size: Pictures of one call of the pipeline; in tiles they are made one by one.
        budget_bytes: What the process may take in all, on a GPU of its memory; None: what is free.
        compiled: See ``prepare_for_sampling``.

    Raises:
        GeometryError: The model makes no images of this size.
        StateError: One of the files is there and another picture.
        OutputFolderError: The disk has not room for all of them, or cannot be written.
        ConfigError: The budget is too small; the pipeline makes one image at a time, or does not run in tiles; its
            transformer cannot be compiled.
    """
    require_size(pipe.transformer, settings.size_px)
    _require_batch(pipe, batch_size)
    missing = [picture for picture in pictures if not picture.is_finished(settings)]
    made = {id(picture): Made(picture=picture, seconds=None) for picture in pictures}
    if missing:
        pipe.to(fastest_device())
        prepare_for_sampling(pipe, compiled=compiled)
        tile_px = choose_tile(pipe, settings.size_px, batch=batch_size, budget_bytes=budget_bytes)
        _require_space(missing, settings, in_tiles=tile_px is not None)
        with remembering(pipe):
            if tile_px is None:
                done = _make_whole(pipe, missing, settings, batch_size=batch_size)
            else:
                done = _make_in_tiles(pipe, missing, settings, tile_px=tile_px, budget_bytes=budget_bytes)
        made |= {id(each.picture): each for each in done}
    return [made[id(picture)] for picture in pictures]


def _make_whole(pipe: Any, pictures: Sequence[Picture], settings: PictureSettings, *, batch_size: int) -> list[Made]:
    made = []
    height, width = settings.size_px
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        pipe.set_progress_bar_config(desc=f"{batch[0].path.name} ({start + len(batch)} of {len(pictures)})")
        began = time.perf_counter()
        images = sample_whole(
            pipe,
            [picture.prompt for picture in batch],
            [picture.seed for picture in batch],
            size_px=settings.size_px,
            num_steps=settings.num_steps,
            guidance_scale=settings.guidance_scale,
        )
        for picture, image_CHW in zip(batch, images, strict=True):
            record = picture.record(settings)
            write_png(picture.path, [bytes_of(image_CHW)], height=height, width=width, record=record)
        seconds = (time.perf_counter() - began) / len(batch)
        made += [Made(picture=picture, seconds=seconds) for picture in batch]
    return made


def _make_in_tiles(
    pipe: Any, pictures: Sequence[Picture], settings: PictureSettings, *, tile_px: int, budget_bytes: int | None
) -> list[Made]:
    made = []
    family, device, (height, width) = family_of(pipe.transformer), pipe.transformer.device, settings.size_px
    rows_of_tiles = -(-height // tile_px)
    for number, picture in enumerate(pictures, start=1):
        began = time.perf_counter()
        script = read_script(
            pipe,
            prompt=[picture.prompt],
            height=height,
            width=width,
            num_inference_steps=settings.num_steps,
            **family.call_options(pipe, guidance_scale=settings.guidance_scale, num_prompts=1),
        )
        title = f"{picture.path.name} ({number} of {len(pictures)}), tiles of {tile_px} px"
        with tqdm(total=len(script.steps) * rows_of_tiles, desc=title, unit="row") as bar:
            sample_in_tiles(
                pipe,
                script,
                picture.path,
                seed=picture.seed,
                size_px=settings.size_px,
                tile_px=tile_px,
                record=picture.record(settings),
                after_trunk=partial(require_within, budget_bytes, device, before=peak_bytes(device)),
                after_rows=bar.update,
            )
        made.append(Made(picture=picture, seconds=time.perf_counter() - began, tile_px=tile_px))
    return made


def _require_batch(pipe: Any, batch_size: int) -> None:
    alone = family_of(pipe.transformer).one_prompt_a_call
    if batch_size < 1 or (alone and batch_size > 1):
        raise ConfigError(
            "The pipeline does not make so many pictures at once",
            found=f"a batch of {batch_size}",
            expected=f"1: {type(pipe).__name__} fails with several prompts" if alone else "a number above 0",
            fix="Use --batch 1.",
        )


def _require_space(pictures: Sequence[Picture], settings: PictureSettings, *, in_tiles: bool) -> None:
    """Check that the disk has room for all pictures, and in tiles for the running image of one."""
    height, width = settings.size_px
    needed = height * width * (PNG_PIXEL_BYTES * len(pictures) + in_tiles * STEPS_ON_DISK * PIXEL_BYTES)
    there = UnfinishedImage.beside(pictures[0].path, size_px=settings.size_px).path
    needed -= sum(path.stat().st_size for path in there.glob("*"))
    require_space(pictures[0].path, needed)
