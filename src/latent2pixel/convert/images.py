"""The images on which a conversion is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

NUM_FIT_IMAGES = 1000
"""Images behind a fit: at 1024 px 4 million patches, far more than its matrices have entries in a row."""


@dataclass(frozen=True, kw_only=True)
class FitImages:
    """Images of the source on which the lift is fitted and the head learns."""

    name: str
    """Says in the record which images they are, such as their folder."""
    images: Sequence[Tensor]
    """Each (3, H, W), sRGB bytes or floats in [-1, 1], sides multiples of the patch; loaded when asked for."""
