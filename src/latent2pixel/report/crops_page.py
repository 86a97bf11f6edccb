"""The page of crops at 100 %: a small picture scaled up beside a large one that was made at its size."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from latent2pixel.errors import ConfigError, GeometryError
from latent2pixel.io.images import load_bytes, thumbnail
from latent2pixel.io.packed_image import ImageFile
from latent2pixel.report.page import require_packages, write_page

UPSAMPLINGS = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}
PLACES = ((0.5, 0.5), (1 / 3, 1 / 3), (2 / 3, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 2 / 3))
"""Centres of the crops, as shares of width and height: fixed, so that nobody picks those that look best."""
WHOLE_PX = 320
"""Longest side of the whole pictures on the page."""


@dataclass(frozen=True, kw_only=True)
class CropPair:
    """Two pictures of one prompt and seed."""

    prompt: str
    seed: int
    source_file: ImageFile
    """The source's, smaller."""
    pixel_file: ImageFile
    """The pixel model's."""


@dataclass(frozen=True, kw_only=True)
class CropsPage:
    """Everything that one page shows."""

    source: str
    """Name of the latent model."""
    pixel: str
    """Name of the pixel model."""
    pairs: Sequence[CropPair] = ()
    """In the order of the page."""
    upsampling: str = "lanczos"
    """One of ``UPSAMPLINGS``."""
    crop_px: int = 320
    """Width and height of a crop; a pixel of it is a pixel of the page."""
    num_crops: int = 3
    """Crops of each pair, the first of ``PLACES``."""

    def __post_init__(self) -> None:
        if self.upsampling not in UPSAMPLINGS or not 1 <= self.num_crops <= len(PLACES) or self.crop_px < 1:
            raise ConfigError(
                "A setting of the page of crops does not exist",
                found=f"upsampling={self.upsampling!r}, num_crops={self.num_crops}, crop_px={self.crop_px}",
                expected=f"upsampling in {', '.join(UPSAMPLINGS)}, 1 to {len(PLACES)} crops of 1 px or more",
                fix="Choose other values.",
            )


def write_crops_page(content: CropsPage, path: Path) -> Path:
    """Write the page as one self-contained HTML file and return its path.

    Raises:
        GeometryError: A picture of the source is not smaller than its partner, has another aspect, or the crop is
            larger than a picture.
        L2PError: jinja2 is not installed, or the file cannot be written.
        DataError: A picture cannot be read.
    """
    require_packages()
    context = {
        "content": {"title": "Scaled up, and made at its size"},
        "page": content,
        "rows": [_row(pair, content) for pair in content.pairs],
    }
    return write_page("crops.html.j2", path, context, filters={})


def crops_of(source: Image.Image, pixel: Image.Image, content: CropsPage) -> list[tuple[Image.Image, Image.Image]]:
    """Return the same places of both pictures at the size of the larger one.

    Args:
        source: The smaller picture; its crops are scaled up to the other's size.
        pixel: The larger one; its crops are its own pixels.
        content: Tells crops and upsampling.

    Raises:
        GeometryError: As ``write_crops_page``.
    """
    crop = content.crop_px
    if (
        source.width >= pixel.width
        or source.width * pixel.height != source.height * pixel.width
        or crop > min(pixel.size)
    ):
        raise GeometryError(
            "These pictures cannot be shown crop by crop",
            found=f"source {source.width} x {source.height} px, pixel model {pixel.width} x {pixel.height} px, "
            f"crops of {crop} px",
            expected="a source's picture of the same aspect and smaller, crops no larger than the pictures",
            fix="Choose other sizes.",
        )
    scale, pairs = pixel.width / source.width, []
    for across, down in PLACES[: content.num_crops]:
        left, top = round(across * (pixel.width - crop)), round(down * (pixel.height - crop))
        # Filters reach beyond the box: the crop is that of the whole picture scaled up.
        scaled = source.resize(
            (crop, crop),
            UPSAMPLINGS[content.upsampling],
            box=(left / scale, top / scale, (left + crop) / scale, (top + crop) / scale),
        )
        pairs.append((scaled, pixel.crop((left, top, left + crop, top + crop))))
    return pairs


def _row(pair: CropPair, content: CropsPage) -> dict[str, Any]:
    """Return what the template shows of a pair."""
    source, pixel = (_opened(file) for file in (pair.source_file, pair.pixel_file))
    sides: Mapping[str, tuple[str, Image.Image, ImageFile]] = {
        "source": (f"{content.source}, {source.width} px, {content.upsampling}", source, pair.source_file),
        "pixel": (f"{content.pixel}, {pixel.width} px", pixel, pair.pixel_file),
    }
    wholes = [
        (kind, name, "data:image/jpeg;base64," + _base64(thumbnail(file, side_px=WHOLE_PX)))
        for kind, (name, _, file) in sides.items()
    ]
    crops = [
        [(kind, _png_uri(crop)) for kind, crop in zip(sides, both, strict=True)]
        for both in crops_of(source, pixel, content)
    ]
    return {"prompt": pair.prompt, "seed": pair.seed, "wholes": wholes, "crops": crops}


def _opened(file: ImageFile) -> Image.Image:
    return Image.fromarray(load_bytes(file).permute(1, 2, 0).contiguous().numpy())


def _png_uri(picture: Image.Image) -> str:
    """Return a picture without loss: artefacts of a JPEG would be taken for the model's."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return "data:image/png;base64," + _base64(file.getvalue())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
