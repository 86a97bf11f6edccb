"""Buckets: the sizes to which images of different aspects are cropped, so that a batch has one size."""

Size = tuple[int, int]
"""Height and width, px."""


def bucket_sizes(image_size_px: int, *, patch_px: int) -> list[Size]:
    """Return sizes from 1:2 to 2:1 of about ``image_size_px**2`` pixels, with sides of whole patches."""
    # Loaded here: who only counts images needs no diffusers, which takes ten seconds.
    from diffusers.training_utils import generate_aspect_ratio_buckets

    return generate_aspect_ratio_buckets(image_size_px, divisibility=patch_px)


def bucket_of(size_px: Size, buckets: list[Size]) -> Size:
    """Return the bucket of the nearest aspect, whether the image is large enough for it or not."""
    from diffusers.training_utils import find_nearest_bucket

    # The difference of cross products orders buckets of one area as the difference of the aspects' logarithms does.
    return buckets[find_nearest_bucket(*size_px, buckets)]
