"""What a pipeline folder holds, from its headers and configurations alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights

from latent2pixel.errors import SourceError
from latent2pixel.families import PIXEL_CLASSES, family_of, load_pixel_class
from latent2pixel.families.base import Family, require_pipeline
from latent2pixel.io.pipeline_folder import main_dtype, parts_of, read_index, read_json, require_complete
from latent2pixel.model import freezing


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `l2p inspect` says."""

    folder: str
    kind: str
    """"latent source" or "pixel model"."""
    family: str
    pipeline: str
    transformer: str
    objective: str
    """What the network predicts: flow, eps or v."""
    pixels_per_token: int
    """Per axis: the pixel model's, or what a conversion chooses unless told otherwise."""
    blocks: dict[str, int]
    """Main block lists and their lengths, in execution order."""
    text_encoders: dict[str, str]
    """Part -> class."""
    dtypes: dict[str, str]
    """Part -> dtype of most of its weights."""
    parameters: int
    """Of the pixel model's transformer, this one's or that of a conversion."""
    trainable_share: float
    """Under recipe `paper` with 5 blocks at each end, in [0, 1]."""
    lift: dict[str, Any] | None
    """A lifted model's scale, and how well its lift fits."""


def inspect(folder: Path) -> Inspection:
    """Describe a latent source or a pixel model without reading a weight.

    Args:
        folder: Pipeline folder.

    Raises:
        SourceError: If it is no pipeline of a known family, or its parts belong to several.
        CheckpointError: If parts are missing or truncated.
    """
    index = read_index(folder)
    parts = parts_of(index)
    if "transformer" not in parts:
        raise SourceError(
            "The pipeline has no transformer",
            found=", ".join(parts),
            expected="a text-to-image pipeline around a diffusion transformer",
            fix="Choose a transformer source; `l2p families` lists them.",
        )
    class_name = parts["transformer"][1]
    family = family_of(class_name)
    require_pipeline(folder, family)
    weights = require_complete(folder)
    model = _empty_model(family, class_name, folder)
    blocks = {name: len(model.get_submodule(name)) for name in family.image_blocks}
    shown = min(5, sum(blocks.values()) // 2)
    share = freezing.describe(model, freezing.trainable_names(model, num_blocks=shown))
    return Inspection(
        folder=str(folder),
        kind="pixel model" if class_name in PIXEL_CLASSES else "latent source",
        family=family.name,
        pipeline=str(index["_class_name"]),
        transformer=class_name,
        objective=family.objective,
        pixels_per_token=model.config["pixel_patch_size"],
        blocks=blocks,
        text_encoders={name: cls for name, (_, cls) in parts.items() if name.startswith("text_encoder")},
        dtypes={name: main_dtype(tensors) for name, tensors in weights.items()},
        parameters=share.num_total,
        trainable_share=share.share,
        lift=model.config["lift_config"],
    )


def _empty_model(family: Family, class_name: str, folder: Path) -> Any:
    """Return the folder's pixel model, or the one that a conversion would make of it, on the meta device."""
    config = read_json(folder / "transformer" / "config.json")
    pixel_class: Any = load_pixel_class(family.name)
    if class_name not in PIXEL_CLASSES:
        return pixel_class.from_config_of(config, pixel_patch_size=family.patch_px)
    with init_empty_weights(include_buffers=False):
        return pixel_class.from_config(config)
