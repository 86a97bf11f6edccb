"""A picture from anywhere as one that training can take: 8 bits, sRGB, upright, one frame; or why it is none."""

import hashlib
import io
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from latent2pixel.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
"""What is opened. Others are refused for safety: an EPS file, for one, is a program that Ghostscript would run."""
KEPT_FORMATS = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp"}
"""Files of these formats stay byte for byte where nothing about them has to change."""
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of 16 bits."""
PROFILE_SPACES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}
"""Colour space of a profile -> mode of the pictures that it describes."""
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error, RuntimeError, MemoryError,
    ImageCms.PyCMSError,
)  # fmt: skip
"""What Pillow raises for damaged files, whose readers trust what the file says; RuntimeError: those of AVIF."""


@dataclass(frozen=True, kw_only=True)
class UsableImage:
    """A picture that training can take."""

    content: bytes
    """The file."""
    suffix: str
    """Of its name, such as ``.png``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    digest: str
    """Of the pixels: equal for the same picture in different files."""


def usable_image(path: Path, *, size_px: int | None = None) -> UsableImage:
    """Return a picture as training can take it.

    The file's own bytes stay where nothing has to change; otherwise the picture becomes a PNG: turned upright as its
    Exif data say, colours of another profile or of CMYK as sRGB, palette and grey as RGB, 16 bits as 8, transparent
    parts white, a place where the photograph was taken removed.

    Args:
        path: The file.
        size_px: Width and height to which it is scaled down and cropped around its centre; None leaves the size.

    Raises:
        DataError: No such file, no image of a known format, damaged, animated, too large or too small, or of values
            whose range nobody knows. ``found`` is the reason.
    """
    _require_file(path)
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=_known_formats()) as picture:
            _require_one_frame(picture)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            converted = _to_rgb(upright)
            changed = converted is not upright or _is_turned(picture) or _tells_place(picture)
            suffix = None if changed else KEPT_FORMATS.get(picture.format or "")
    except UnidentifiedImageError as error:
        raise _unusable("no image of a known format") from error
    except Image.DecompressionBombError as error:
        raise _unusable(f"too many pixels: {error}") from error
    except DAMAGE as error:
        raise _unusable(f"damaged: {error}") from error
    if size_px is not None and converted.size != (size_px, size_px):
        converted, suffix = _cropped(converted, size_px), None
    return UsableImage(
        content=content if suffix else _as_png(converted),
        suffix=suffix or ".png",
        width=converted.width,
        height=converted.height,
        digest=hashlib.sha256(str(converted.size).encode() + converted.tobytes()).hexdigest(),
    )


def _require_file(path: Path) -> None:
    try:
        # Asked first: opening a pipe would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unusable("no regular file")
    except FileNotFoundError as error:
        raise _unusable("no such file") from error
    except OSError as error:
        raise _unusable(f"cannot be read: {error.strerror}") from error


def _known_formats() -> list[str]:
    Image.init()  # else only the most frequent formats are there
    return [name for name in FORMATS if name in Image.OPEN]


def _require_one_frame(picture: Image.Image) -> None:
    # Telephones store a second, derived picture behind the first one; that is no animation.
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if frames > 1:
        raise _unusable(f"animated, or of several pages: {frames} frames")


def _is_turned(picture: Image.Image) -> bool:
    return picture.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _tells_place(picture: Image.Image) -> bool:
    """Return whether the file says where it was taken, which would be published with the set."""
    return bool(picture.getexif().get_ifd(ExifTags.IFD.GPSInfo)) or b"GPS" in bytes(picture.info.get("xmp") or b"")


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Return the picture as RGB, itself where it is that already."""
    if picture.mode in DEEP_GREY:
        return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise _unusable(f"values of 32 bits (mode {picture.mode}), whose white nobody knows")
    profile = picture.info.get("icc_profile")
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    if profile:
        picture = _to_srgb(picture, profile)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Return the picture in sRGB where its profile is another one and belongs to its mode."""
    stored = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = PROFILE_SPACES.get(stored.profile.xcolor_space.strip())
    if mode != picture.mode or (mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(stored)):
        return picture
    converted = ImageCms.profileToProfile(picture, stored, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if converted is None:  # only where it converts in place
        raise _unusable("a colour profile that cannot be applied")
    return converted


def _cropped(picture: Image.Image, size_px: int) -> Image.Image:
    if min(picture.size) < size_px:
        # As the training set says it too: an enlarged picture would teach blur.
        raise _unusable(f"{picture.width} x {picture.height} px, smaller than {size_px} x {size_px}")
    return ImageOps.fit(picture, (size_px, size_px), Image.Resampling.LANCZOS)


def _as_png(picture: Image.Image) -> bytes:
    # A new picture from the pixels alone: Pillow would write the old one's Exif data and profile.
    clean = Image.frombytes("RGB", picture.size, picture.tobytes())
    file = io.BytesIO()
    clean.save(file, format="PNG")
    return file.getvalue()


def _unusable(reason: str) -> DataError:
    return DataError(
        "An image cannot be used",
        found=reason,
        expected=f"one picture of 8 or 16 bits a channel in {', '.join(FORMATS)}",
        fix="Convert it, or leave it out.",
    )
