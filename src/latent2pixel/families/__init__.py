"""Supported source architectures: one module each, listed in one registry."""

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from latent2pixel.errors import UnsupportedFamilyError

if TYPE_CHECKING:
    from torch import nn

    from latent2pixel.families.base import Family
    from latent2pixel.model.pixel_transformer import PixelTransformerMixin

TRANSFORMERS: dict[str, str] = {
    "z_image": "ZImageTransformer2DModel",
    "flux": "FluxTransformer2DModel",
    "sd3": "SD3Transformer2DModel",
    "pixart": "PixArtTransformer2DModel",
    "hunyuan_dit": "HunyuanDiT2DModel",
    "cogview3": "CogView3PlusTransformer2DModel",
    "qwen": "QwenImageTransformer2DModel",
    "krea2": "Krea2Transformer2DModel",
    "nucleus": "NucleusMoEImageTransformer2DModel",
    "sana": "SanaTransformer2DModel",
    "lumina2": "Lumina2Transformer2DModel",
    "auraflow": "AuraFlowTransformer2DModel",
    "qwen21": "QwenImage21Transformer2DModel",
    "prx": "PRXTransformer2DModel",
    "ideogram4": "Ideogram4Transformer2DModel",
    "hunyuan_image": "HunyuanImageTransformer2DModel",
    "cogview4": "CogView4Transformer2DModel",
    "hidream": "HiDreamImageTransformer2DModel",
    "flux2": "Flux2Transformer2DModel",
    "ernie": "ErnieImageTransformer2DModel",
    "chroma": "ChromaTransformer2DModel",
    "kandinsky5": "Kandinsky5Transformer3DModel",
    "ovis": "OvisImageTransformer2DModel",
    "longcat": "LongCatImageTransformer2DModel",
    "bria": "BriaTransformer2DModel",
    "bria_fibo": "BriaFiboTransformer2DModel",
    "bria_fibo2": "BriaFibo2Transformer2DModel",
    "glm": "GlmImageTransformer2DModel",
}
"""Module in this package -> transformer class of diffusers. A new family is one module and one line here."""


def pixel_class_name(transformer_class_name: str) -> str:
    """Return the exported name of a pixel class: ``XTransformer2DModel`` -> ``XPixelTransformer2DModel``."""
    pixel = transformer_class_name.replace("Transformer", "PixelTransformer")
    return pixel if pixel != transformer_class_name else f"Pixel{pixel}"


PIXEL_CLASSES: dict[str, str] = {pixel_class_name(transformer): name for name, transformer in TRANSFORMERS.items()}
"""Exported pixel class -> module in this package."""


def load_family(name: str) -> "Family":
    """Import a family by its module name and return it."""
    return _module(name).FAMILY


def load_pixel_class(name: str) -> "type[PixelTransformerMixin]":
    """Import the pixel class of a family by its module name and return it."""
    return _module(name).PIXEL_CLASS


def module_of(pixel_class: str) -> str:
    """Return the full name of the module that defines an exported pixel class."""
    return f"{__name__}.{PIXEL_CLASSES[pixel_class]}"


def family_of(transformer: "str | nn.Module") -> "Family":
    """Return the family of a transformer, of a pixel transformer, or of the name of such a class.

    Args:
        transformer: The model, or its class name as in ``model_index.json``.

    Raises:
        UnsupportedFamilyError: If no module here describes it.
    """
    if isinstance(transformer, str):
        class_names = [transformer]
    else:
        class_names = [base.__name__ for base in type(transformer).__mro__]
    for name, supported in TRANSFORMERS.items():
        if {supported, pixel_class_name(supported)} & set(class_names):
            return load_family(name)
    raise UnsupportedFamilyError(
        "This transformer is not supported yet",
        found=class_names[0],
        expected=_supported(class_names[0]),
        fix="Choose a source with one of these transformers, or add a module to latent2pixel/families "
        "(docs/adding-a-family.md).",
    )


def _supported(found: str) -> str:
    """Return a hint at the transformers that are supported, those of like name first."""
    like = difflib.get_close_matches(found, TRANSFORMERS.values(), n=3, cutoff=0.0)
    return f"one of the {len(TRANSFORMERS)} classes that `l2p families` lists, such as {', '.join(like)}"


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
