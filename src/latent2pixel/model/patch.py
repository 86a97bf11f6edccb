"""Which pixel patches a source's transformer, its pipeline and the detailer head can serve."""

from latent2pixel.errors import GeometryError


def require_patch(pixel_patch_size: int, *, latent_patch: int, num_head_levels: int) -> None:
    """Check that a pixel patch fits the trunk's own patch and the head.

    A head of n levels has its bottleneck at 1 / 2**n: one feature per token needs ``2**n == patch``; a larger patch
    upsamples the features; one that this does not divide cannot be served.

    Raises:
        GeometryError: If one of these does not hold.
    """
    if pixel_patch_size < 1 or pixel_patch_size % latent_patch:
        raise GeometryError(
            "The patch size does not fit the source's transformer",
            found=f"patch size {pixel_patch_size}, latent patch {latent_patch}",
            expected=f"a multiple of {latent_patch}",
            fix="Choose 16 for images of about 1024 px, 64 for 4096 px, 128 for 8192 px, 160 for 10240 px.",
        )
    if pixel_patch_size % 2**num_head_levels:
        raise GeometryError(
            "The detailer head is deeper than the patch allows",
            found=f"{num_head_levels} levels (bottleneck at 1/{2**num_head_levels}), patch size {pixel_patch_size}",
            expected=f"2**levels dividing the patch size, best "
            f"{largest_power_of_two(pixel_patch_size).bit_length() - 1} levels",
            fix="Give the head one number of channels a level, for example 32, 64, 128 for three levels.",
        )


def require_pipeline_patch(pixel_patch_size: int, *, multiple_of: int | None, only: int | None) -> None:
    """Check that the source's stock pipeline can serve a pixel patch.

    Args:
        pixel_patch_size: Pixels per token and axis.
        multiple_of: ``Trunk.pipeline_patch_px``.
        only: ``Trunk.only_patch_px``.

    Raises:
        GeometryError: If it cannot.
    """
    if only not in (None, pixel_patch_size):
        raise GeometryError(
            "The stock pipeline of this source serves one patch size only",
            found=f"patch size {pixel_patch_size}",
            expected=f"patch size {only}",
            fix=f"Choose patch {only}, or another source for larger patches.",
        )
    if multiple_of is not None and pixel_patch_size % multiple_of:
        raise GeometryError(
            "The stock pipeline of this source counts tokens of one size, which others can only be made of",
            found=f"patch size {pixel_patch_size}",
            expected=f"a multiple of {multiple_of}",
            fix=f"Choose {multiple_of} for images of about 1024 px, 64 for 4096 px, 128 for 8192 px.",
        )


def largest_power_of_two(number: int) -> int:
    """Return the largest power of two that divides a positive number."""
    return number & -number
