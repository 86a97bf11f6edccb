"""latent2pixel: turn a pretrained latent diffusion transformer into a pixel-space model.

Names are loaded when they are first used, so importing the package costs nothing. diffusers finds ``PixelVAE``,
the pixel transformers and ``ModelMixin`` here when it loads a saved pixel pipeline.
"""

import importlib
from typing import TYPE_CHECKING, Any

from latent2pixel.errors import L2PError
from latent2pixel.families import PIXEL_CLASSES, load_pixel_class

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from latent2pixel.convert import build_pixel_pipeline
    from latent2pixel.generate import load_pipeline
    from latent2pixel.model.codec import PixelVAE
    from latent2pixel.model.head import DetailerHead

__version__ = "0.1.0"

_EXPORTS = {
    "DetailerHead": "latent2pixel.model.head",
    "ModelMixin": "diffusers",  # diffusers looks its base class up in the module that model_index.json names
    "PixelVAE": "latent2pixel.model.codec",
    "build_pixel_pipeline": "latent2pixel.convert",
    "load_pipeline": "latent2pixel.generate",
}

__all__ = [
    "DetailerHead",
    "L2PError",
    "ModelMixin",
    "PixelVAE",
    "__version__",
    "build_pixel_pipeline",
    "convert",
    "load_pipeline",
]


def __getattr__(name: str) -> Any:
    if name == "convert":  # the package; its function is latent2pixel.convert.convert
        return importlib.import_module("latent2pixel.convert")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in PIXEL_CLASSES:
        return load_pixel_class(PIXEL_CLASSES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *PIXEL_CLASSES})
