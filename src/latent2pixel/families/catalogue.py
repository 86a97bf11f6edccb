"""Published sources: their configurations, and what each becomes, counted on the meta device."""

import inspect
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from latent2pixel.families import TRANSFORMERS, load_family, load_pixel_class

RELEASES = Path(__file__).parent / "releases"
"""One JSON file for each published model."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published source model."""

    family: str
    """Module in this package."""
    release: str
    """Its name."""
    repository: str
    """Its id on the Hugging Face Hub."""
    licence: str
    """Of its weights, which every pixel model made from them carries on; "unknown" where we do not know."""
    config_from: str
    """Where the configuration is taken from."""
    patch_px: int
    """Pixels per token and axis of the latent source."""
    config: dict[str, Any]
    """Where the transformer's configuration differs from its class's defaults."""


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """What `l2p families` says of a release."""

    family: str
    transformer: str
    pipelines: tuple[str, ...]
    release: str
    repository: str
    licence: str
    config_from: str
    objective: str
    pixels_per_token: int
    """Per axis; of the source, and of a pixel model with as many tokens."""
    parameters: int
    """Of the pixel model."""
    trainable_share: float
    """Under the recipe `paper` with 5 blocks at each end, in [0, 1]."""
    lift: bool
    """Whether the recipe `lift` can convert it."""
    image_to_image: str | None
    """Stock pipeline, if there is one."""
    inpaint: str | None
    lora: str
    """"pipeline": the stock pipeline loads them; "transformer": only its transformer does; "none"."""
    status: str


def releases() -> list[Release]:
    """Return the published models, in the order of the families."""
    found = [Release(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(RELEASES.glob("*.json"))]
    return sorted(found, key=lambda release: list(TRANSFORMERS).index(release.family))


@cache
def catalogue() -> list[CatalogueEntry]:
    """Return what each published model becomes; seconds for each, as every model is built without memory."""
    return [describe_release(release) for release in releases()]


def describe_release(release: Release) -> CatalogueEntry:
    """Build a release's pixel model on the meta device and count."""
    from latent2pixel.model import freezing

    family, pixel_class = load_family(release.family), load_pixel_class(release.family)
    pixel = pixel_class.from_config_of(full_config(release), pixel_patch_size=release.patch_px)
    share = freezing.describe(pixel, freezing.trainable_names(pixel))
    pipeline = family.pipeline_names[0]
    return CatalogueEntry(
        family=release.family,
        transformer=TRANSFORMERS[release.family],
        pipelines=family.pipeline_names,
        release=release.release,
        repository=release.repository,
        licence=release.licence,
        config_from=release.config_from,
        objective=family.objective,
        pixels_per_token=release.patch_px,
        parameters=share.num_total,
        trainable_share=share.share,
        lift=family.objective == "flow",
        image_to_image=_task_pipeline("AUTO_IMAGE2IMAGE_PIPELINES_MAPPING", pipeline),
        inpaint=_task_pipeline("AUTO_INPAINT_PIPELINES_MAPPING", pipeline),
        lora=_lora(family, pipeline),
        status=family.status,
    )


def full_config(release: Release) -> dict[str, Any]:
    """Return the whole configuration of a release's transformer.

    Raises:
        KeyError: If the release names a key that the class does not have.
    """
    parameters = inspect.signature(load_family(release.family).transformer_class.__init__).parameters
    defaults = {name: each.default for name, each in parameters.items() if name != "self"}
    if unknown := release.config.keys() - defaults.keys():
        raise KeyError(f"{release.release}: {sorted(unknown)}")
    return {**defaults, **release.config}


INTRODUCTION = """\
# Sources

Written by `l2p families --markdown`; a test checks that it is current. Parameters: of the pixel model, counted on the
meta device from the published configuration (`src/latent2pixel/families/releases/` says where each is from). Trains:
share under recipe `paper`, 5 blocks at each end. Pixels a token: per axis, of the source and of a pixel model with as
many tokens. Image to image, inpaint: whether diffusers has a stock pipeline for it. We have not converted published
weights: there is no GPU where this is written. Status says what has been proved instead.

"""
COLUMNS = (
    "source",
    "family",
    "objective",
    "pixels a token",
    "parameters",
    "trains",
    "recipe `lift`",
    "pipeline",
    "image to image",
    "inpaint",
    "LoRA",
    "licence of the weights",
    "status",
)


def markdown(entries: list[CatalogueEntry]) -> str:
    """Return the catalogue as the page ``docs/families.md``."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for entry in entries:
        cells = (
            f"[{entry.release}](https://huggingface.co/{entry.repository})",
            f"`{entry.family}`",
            entry.objective,
            str(entry.pixels_per_token),
            f"{entry.parameters / 1e9:.2f} B",
            f"{entry.trainable_share:.0%}",
            "yes" if entry.lift else "no",
            ", ".join(f"`{name}`" for name in entry.pipelines),
            "yes" if entry.image_to_image else "no",
            "yes" if entry.inpaint else "no",
            entry.lora,
            entry.licence,
            entry.status,
        )
        rows.append(cells)
    return INTRODUCTION + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _task_pipeline(mapping: str, pipeline: str) -> str | None:
    """Return the stock pipeline of another task that diffusers makes from a text-to-image pipeline."""
    from diffusers.pipelines import auto_pipeline

    chosen = getattr(auto_pipeline, mapping)
    names = {each.__name__: key for key, each in auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items()}
    found = chosen.get(names.get(pipeline))
    # For some a text-to-image pipeline stands for its own: it takes images as references, and a pixel model takes none.
    return None if found is None or found.__name__ == pipeline else found.__name__


def _lora(family: Any, pipeline: str) -> str:
    import diffusers

    # A pipeline may promise what its transformer cannot keep.
    if not hasattr(family.transformer_class, "add_adapter"):
        return "none"
    return "pipeline" if hasattr(getattr(diffusers, pipeline), "load_lora_weights") else "transformer"
