"""Load pixel pipelines."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent2pixel.families.base import require_pixel_pipeline
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline

if TYPE_CHECKING:
    import torch


def load_pipeline(
    source: str | Path, *, torch_dtype: "torch.dtype | None" = None, without: Collection[str] = ()
) -> Any:
    """Load a pixel pipeline with its stock diffusers class.

    Args:
        source: Folder, or ``owner/name`` on the Hugging Face Hub.
        torch_dtype: Dtype of all parts; None keeps the stored one. The codec always works in float32.
        without: Parts to leave out; they are None in the pipeline.

    Returns:
        A stock diffusers pipeline with a pixel transformer and a ``PixelVAE``.

    Raises:
        SourceError: If the source cannot be found, is no pipeline, or is a latent pipeline.
        CheckpointError: If parts are missing, truncated, or do not fit their configuration.
    """
    folder = find_pipeline_folder(source)
    require_pixel_pipeline(folder)
    return open_pipeline(folder, dtype=torch_dtype, without=without)
