"""Load pixel pipelines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent2pixel.errors import SourceError
from latent2pixel.families import PIXEL_CLASSES
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline, parts_of, read_index

if TYPE_CHECKING:
    import torch


def load_pipeline(source: str | Path, *, torch_dtype: "torch.dtype | None" = None) -> Any:
    """Load a pixel pipeline with its stock diffusers class.

    Args:
        source: Folder, or ``owner/name`` on the Hugging Face Hub.
        torch_dtype: Dtype of all parts; None keeps the stored one. The codec always works in float32.

    Returns:
        A stock diffusers pipeline with a pixel transformer and a ``PixelVAE``.

    Raises:
        SourceError: If the source cannot be found, is no pipeline, or is a latent pipeline.
        CheckpointError: If parts are missing, truncated, or do not fit their configuration.
    """
    folder = find_pipeline_folder(source)
    class_name = parts_of(read_index(folder)).get("transformer", ("", "no transformer"))[1]
    if class_name not in PIXEL_CLASSES:
        raise SourceError(
            f"{source} is no pixel pipeline",
            found=class_name,
            expected=f"a transformer of class {' or '.join(PIXEL_CLASSES)}",
            fix="Convert it first: `l2p convert SOURCE OUT`.",
        )
    return open_pipeline(folder, dtype=torch_dtype)
