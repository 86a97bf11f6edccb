"""The published pixel checkpoints of L2P: their key names, and the order of their pixels.

Released file                                           Here
``all_x_embedder.{patch}-1``, (row, column, channel)    the input projection, values as the trunk packs them
``local_decoder.enc1.0`` ..., ``up1.1``, ``dec1.0``     ``head.enc.0.0`` ..., ``head.up.0``, ``head.dec.0.0``
``local_decoder.bottleneck.0``, ``out_conv``            ``head.bottleneck.0``, ``head.out_conv``
everything else                                         the same

Source:
    Headers of the released Z-Image weights (545 tensors) and the module names of the released code, 1K and 4K.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS, PixelTransformerMixin

FAMILY_NAME = "z_image"
"""The only family with published pixel weights."""
EMBEDDER = re.compile(r"all_x_embedder\.(\d+)-1\.")
LEVELS = {4: ("1", "2", "3", "4"), 6: ("0", "0b", "1", "2", "3", "4")}
"""Levels of the head, finest first, by the released code's names: the 1K and the 4K layout."""


def patch_of(keys: Mapping[str, object]) -> int | None:
    """Return the pixels per token and axis that a released file's keys tell, or None if they tell none."""
    found = {int(match.group(1)) for match in map(EMBEDDER.match, keys) if match}
    return found.pop() if len(found) == 1 else None


def head_levels(keys: Mapping[str, object]) -> int | None:
    """Return the number of levels of a released file's head, or None if it is no layout that is known."""
    names = {key.split(".")[1] for key in keys if key.startswith("local_decoder.up")}
    return next((number for number, levels in LEVELS.items() if names == {f"up{level}" for level in levels}), None)


def released_name(key: str, *, patch_size: int, num_levels: int) -> str:
    """Return the released file's name of one of our keys."""
    own = projection_name()
    if key.startswith(f"{own}."):
        return f"all_x_embedder.{patch_size}-1{key.removeprefix(own)}"
    part, _, rest = key.removeprefix("head.").partition(".")
    if not key.startswith("head."):
        return key
    if part in ("enc", "up", "dec"):
        level, _, rest = rest.partition(".")
        # A released up level is a sequence whose number 0 is the upsampling, which has no weights.
        inner = f"1.{rest}" if part == "up" else rest
        return f"local_decoder.{part}{LEVELS[num_levels][int(level)]}.{inner}"
    return f"local_decoder.{part}.{rest}"


def projection_name() -> str:
    """Return the name of the input projection in our model of the family."""
    from latent2pixel.families import load_family

    return load_family(FAMILY_NAME).input_projections[0]


def pixel_places(model: PixelTransformerMixin) -> Tensor:
    """Return, for each value of our trunk's pixel token, its column in the released input projection, (D,).

    Source:
        The released code cuts patches as (row, column, channel), column ``(row * patch + column) * 3 + channel``.
    """
    patch = model.config["pixel_patch_size"]
    places_crs = torch.arange(patch**2 * IMAGE_CHANNELS).view(patch, patch, IMAGE_CHANNELS).permute(2, 0, 1)
    return places_crs.flatten()[model.patch_order()]
