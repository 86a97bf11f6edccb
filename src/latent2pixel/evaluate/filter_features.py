"""Features from a few fixed filters: no weights, no download, no randomness.

Shape letters: B batch, C channels, H height, W width, D feature width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.errors import DataError

NAME = "filters-v1"
"""Changes with any change of the numbers."""
NUM_SCALES = 3
"""Whole, half and quarter size: structures of 2 to about 16 px, where patches and a missing decoder show."""
MIN_SIDE_PX = 16
"""Leaves 4 x 4 px at quarter size."""
TO_OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, -1 / 2, 0.0), (1 / 4, 1 / 4, -1 / 2))
"""Brightness, red against green, yellow against blue."""


def filter_features(image_BCHW: Tensor) -> Tensor:
    """Return 39 numbers for each image: colours by quarter of the picture, and edge strength by colour and scale.

    Good for the miniature and as a check without weights: casts of colour, blur, noise, seams between patches, and a
    lack of variety all move them. Not good for what a picture shows: it knows no objects, and two pictures with the
    same colours and textures look alike to it. Distances compare between runs with this name only, never with
    published FID.

    Args:
        image_BCHW: Images in [-1, 1], 16 px or more on both sides.

    Returns:
        12 mean colours (channel, quarter) and 27 root mean squares of differences (scale, filter, channel), (B, 39),
        float32.

    Raises:
        DataError: The images are smaller.
    """
    if min(image_BCHW.shape[-2:]) < MIN_SIDE_PX:
        raise DataError(
            "The filters cannot be applied",
            found=f"images of {image_BCHW.shape[-1]} x {image_BCHW.shape[-2]} px",
            expected=f"{MIN_SIDE_PX} px or more on both sides",
            fix="Make larger images or crops.",
        )
    opponent_BCHW = torch.einsum("oc,bchw->bohw", image_BCHW.new_tensor(TO_OPPONENT).float(), image_BCHW.float())
    parts = [F.adaptive_avg_pool2d(opponent_BCHW, 2).flatten(1)]
    for scale in range(NUM_SCALES):
        level_BCHW = F.avg_pool2d(opponent_BCHW, 2**scale)
        across_BCHW, down_BCHW = level_BCHW.diff(dim=-1), level_BCHW.diff(dim=-2)
        # Checkerboards and single pixels; the two above miss neither slopes nor edges.
        corner_BCHW = across_BCHW.diff(dim=-2)
        parts += [step_BCHW.square().mean((-2, -1)).sqrt() for step_BCHW in (across_BCHW, down_BCHW, corner_BCHW)]
    return torch.cat(parts, dim=1)
