"""How visible the grid of patches is in a model's pictures."""

from torch import Tensor

from latent2pixel.errors import DataError


def patch_grid_ratio(images_BCHW: Tensor, patch_size: int) -> float:
    """Return the mean step between neighbouring pixels at the patches' borders over that within patches.

    Args:
        images_BCHW: Pictures at any scale of values; height and width are multiples of the patch with two patches or
            more.
        patch_size: Pixels along one side of a patch, 2 or more.

    Returns:
        1 where the borders cannot be told from the rest, more where they show, less where they are smoother. Pictures
        have structure of their own, so compare with the ratio of the source's pictures.

    Raises:
        DataError: The pictures do not consist of at least two by two patches, or have no difference within them.
    """
    height, width = images_BCHW.shape[-2:]
    if patch_size < 2 or height % patch_size or width % patch_size or min(height, width) < 2 * patch_size:
        raise DataError(
            "The patch-grid ratio cannot be taken",
            found=f"pictures of {width} x {height} px and patches of {patch_size} px",
            expected="whole patches of 2 px or more, at least two by two of them",
            fix="give the patch size that the pictures were made with",
        )
    border, within = 0.0, 0.0
    for axis in (-1, -2):
        step = images_BCHW.double().diff(dim=axis).abs().transpose(axis, -1)
        at_border = step[..., patch_size - 1 :: patch_size]
        border += at_border.mean().item()
        within += (step.sum() - at_border.sum()).item() / (step.numel() - at_border.numel())
    if within == 0:
        raise DataError(
            "The patch-grid ratio cannot be taken",
            found="no difference between the pixels of any patch",
            expected="pictures with structure",
            fix="look at the pictures first",
        )
    return border / within
