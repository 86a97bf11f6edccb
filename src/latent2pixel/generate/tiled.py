"""A picture whose size is limited by the disk: the running image lies in a file and passes through memory in tiles.

Shape letters: B batch, C image channels, H and W the image in pixels, R and W the rows of it that are in memory, F
pixels per latent cell and axis, P cells per axis that are folded into one place of N rows and M columns.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent2pixel.errors import StateError
from latent2pixel.generate.picture import require_same
from latent2pixel.generate.script import NetworkCall, Script, Step
from latent2pixel.io.float_image import CHANNELS, FloatImage
from latent2pixel.io.images import bytes_of
from latent2pixel.io.new_folder import clear_disk_errors, write_file
from latent2pixel.io.png_rows import write_png
from latent2pixel.model.tiled_forward import Carried, Entered, TiledForward

STEPS_ON_DISK = 2
"""Running images that lie on the disk at once: the one that is read, and the one that is written."""
RECORD = "record.json"
PNG_ROWS = 64
"""Rows that become bytes at once: 6 MB of floats at 8192 px, and as much again for each step between."""


@dataclass(frozen=True, kw_only=True)
class UnfinishedImage:
    """The folder in which a running image waits for its next step."""

    path: Path
    height: int
    width: int

    @classmethod
    def beside(cls, picture: Path, *, size_px: tuple[int, int]) -> "UnfinishedImage":
        """Return the one of a picture."""
        return cls(path=picture.with_name(f".{picture.name}.unfinished"), height=size_px[0], width=size_px[1])

    def image(self, step: int) -> FloatImage:
        """Return the image after so many steps."""
        return FloatImage(self.path / f"step-{step:05d}.f32", height=self.height, width=self.width)

    def last_step(self) -> int | None:
        """Return the last step that is whole on the disk; None: not even the noise is."""
        steps = [match[1] for path in self.path.glob("*") if (match := re.fullmatch(r"step-(\d+)\.f32", path.name))]
        return max(map(int, steps), default=None)

    def claim(self, record: Mapping[str, Any]) -> None:
        """Write down what the image will be, or check that it is what was begun.

        Raises:
            StateError: Another one was begun here.
        """
        path = self.path / RECORD
        if not path.exists():
            write_file(path, json.dumps(record, ensure_ascii=False) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StateError(
                "The record of an unfinished image cannot be read",
                found=f"{path}: {error}",
                expected="one JSON object",
                fix=f"Remove {self.path}; the image is then begun anew.",
            ) from error
        require_same(self.path, dict(record), before)

    def write(self, step: int, fill: Callable[[FloatImage], None]) -> FloatImage:
        """Let the image after a step be filled; it appears whole or not at all, and the one before goes."""
        whole = self.image(step)
        partial = FloatImage(whole.path.with_suffix(".partial"), height=self.height, width=self.width)
        with clear_disk_errors(whole.path, left="the steps before are kept"):
            fill(partial)
            partial.path.replace(whole.path)
        if step:
            self.image(step - 1).path.unlink(missing_ok=True)
        return whole

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path)


def sample_in_tiles(
    pipe: Any,
    script: Script,
    out: Path,
    *,
    seed: int,
    size_px: tuple[int, int],
    tile_px: int,
    record: Mapping[str, Any],
    after_trunk: Callable[[], None],
    after_rows: Callable[[int], None],
) -> None:
    """Sample a picture by a script, and write it; what a killed process left is gone on with.

    Args:
        pipe: Pixel pipeline.
        script: As ``read_script`` returns it.
        out: PNG file to write.
        seed: Of the noise.
        size_px: Height and width, multiples of the patch.
        tile_px: Height and width of a tile, a multiple of the patch.
        record: How the picture is made.
        after_trunk: Called whenever the trunk has run for a step.
        after_rows: Called with the number of rows of tiles that are done since the last call, of all steps.

    Raises:
        StateError: What was left belongs to another picture.
        OutputFolderError: The disk cannot be written, or is full.
    """
    unfinished = UnfinishedImage.beside(out, size_px=size_px)
    unfinished.claim(record)
    image = follow_script(
        pipe.transformer,
        script,
        unfinished,
        seed=seed,
        tile_px=tile_px,
        after_trunk=after_trunk,
        after_rows=after_rows,
    )
    bands = _byte_bands(image, noise_scale=pipe.vae.config["noise_scale"])
    write_png(out, bands, height=size_px[0], width=size_px[1], record=record)
    unfinished.remove()


def follow_script(
    model: Any,
    script: Script,
    unfinished: UnfinishedImage,
    *,
    seed: int,
    tile_px: int,
    after_trunk: Callable[[], None],
    after_rows: Callable[[int], None],
) -> FloatImage:
    """Take all steps that are still to do; arguments as of ``sample_in_tiles``.

    Returns:
        The finished image, as the pipeline hands it to its codec.
    """
    forward = TiledForward(model, size_px=(unfinished.height, unfinished.width), tile_px=tile_px)
    done = unfinished.last_step()
    if done is None:
        generator = torch.Generator().manual_seed(seed)
        unfinished.write(
            0, lambda image: draw_noise(image, factor=model.codec_factor, fold=script.noise_fold, generator=generator)
        )
        done = 0
    after_rows(done * len(forward.row_windows))
    for number, step in enumerate(script.steps[done:], start=done + 1):
        image = unfinished.image(number - 1)
        carried = _carried(forward, image, step.calls)
        after_trunk()
        unfinished.write(number, _filler(forward, image, step, carried, after_rows=after_rows))
    return unfinished.image(len(script.steps))


def draw_noise(image: FloatImage, *, factor: int, fold: int, generator: torch.Generator) -> None:
    """Fill an image with standard normal noise, a few rows at a time.

    The numbers are those that ``torch.randn`` draws at once for the folded map, (1, C * F * F * P * P, N, M), which is
    how pipelines draw them: it draws one after the other in groups of 16, and every part here is some whole groups:
    from F = 16 on, and from 4 on with an even number of cells a side. Elsewhere (patches such as 12 and 20) the same
    seed may make another picture.

    Args:
        image: Written.
        factor: F, pixels per latent cell and axis.
        fold: P, cells per axis that are folded once more; see ``Script``.
        generator: CPU generator.
    """
    rows, columns = image.height // (factor * fold), image.width // (factor * fold)
    for channel in range(CHANNELS):
        for offset in range(factor):  # the row in its cell, of all cells: in this order the folded map has them
            drawn_FPPNM = torch.randn(factor, fold, fold, rows, columns, generator=generator)
            rows_RW = drawn_FPPNM.permute(3, 1, 4, 2, 0).reshape(rows * fold, image.width)
            image.write_channel_rows(channel, offset, rows_RW.numpy(), step=factor)


def _carried(forward: TiledForward, image: FloatImage, calls: Sequence[NetworkCall]) -> list[Carried]:
    """Run the trunk for all calls of a step."""
    entered: dict[float, Entered] = {}
    carried = []
    for call in calls:
        sigma_1 = forward.sigma(call.conditioning[forward.model.trunk.timestep_argument])
        level = float(sigma_1)
        if level not in entered:
            entered[level] = forward.enter(image, sigma_1)
        carried.append(forward.carry(entered[level], call.conditioning, batch=len(call.weights)))
    return carried


def _filler(
    forward: TiledForward,
    image: FloatImage,
    step: Step,
    carried: Sequence[Carried],
    *,
    after_rows: Callable[[int], None],
) -> Callable[[FloatImage], None]:
    """Return a function that fills the next image tile by tile."""

    def fill(after: FloatImage) -> None:
        for rows in forward.row_windows:
            start, end = forward.rows_to_leave(rows)
            band_CRW = image.read_rows(start, end)
            after_CRW = step.keep * band_CRW[:, rows[0] - start : rows[1] - start]
            band_1CRW = band_CRW[None].to(forward.model.device)
            for columns in forward.column_windows:
                for call, each in zip(step.calls, carried, strict=True):
                    answers_BCRW = forward.leave(band_1CRW, start, (rows, columns), each)
                    for weight, answer_CRW in zip(call.weights, answers_BCRW, strict=True):
                        after_CRW[..., slice(*columns)] += weight * answer_CRW.cpu()
            after.write_rows(rows[0], after_CRW)
            after_rows(1)

    return fill


def _byte_bands(image: FloatImage, *, noise_scale: float) -> Iterator[np.ndarray]:
    for start in range(0, image.height, PNG_ROWS):
        yield bytes_of(noise_scale * image.read_rows(start, min(start + PNG_ROWS, image.height)))
