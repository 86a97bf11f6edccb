"""The pictures of an evaluation's sides: drawn by pipelines, or found in folders, and listed with what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel.data.prompts import Prompt
from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import MANIFEST, synthesize
from latent2pixel.errors import ConfigError
from latent2pixel.evaluate.pairs import Key, ListedImages, Problem, Side, list_images, pair_folders
from latent2pixel.io.pipeline_folder import INDEX_NAME, find_pipeline_folder, open_pipeline, parse_dtype, read_json
from latent2pixel.workflow.evaluation_config import EvaluationConfig

Models = Mapping[Side, str | Path]
"""Pipelines or folders of images: "source" and "pixel", or "model" alone."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """All pictures that there are to look at."""

    images: Mapping[Side, ListedImages]
    keys: set[Key]
    """Prompt and seed of those that count: of two sides the pairs."""
    problems: Sequence[Problem]
    """Every image that does not count, and why."""
    num_listed: Mapping[Side, int]
    patch_size: int | None
    """Of the pixel model, if one has drawn."""

    def manifests(self) -> dict[str, Any]:
        """Return what each folder tells of how it was made; None for one that does not tell."""
        paths = {side: listed.folder / MANIFEST for side, listed in self.images.items()}
        return {side: read_json(path) if path.is_file() else None for side, path in paths.items()}


def image_folder(model: str | Path) -> Path | None:
    """Return the folder with images and their records, if that is what was given: itself or ``images``; else None."""
    folder = Path(model)
    if (folder / INDEX_NAME).is_file():
        return None
    for place in (folder, folder / "images"):
        if any(place.glob("metadata.jsonl")) or any(place.glob("[!.]*/metadata.jsonl")):
            return place
    return None


def draw_sides(
    models: Models,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    config: EvaluationConfig,
    device: str,
    announce: Callable[[str], object],
) -> Sides:
    """Let pipelines draw, or go on drawing, and list the pictures of all sides.

    Args:
        models: What to look at.
        prompts: What pipelines draw.
        out: Receives a folder for each pipeline, named as its side.
        config: Settings without gaps.
        device: Where pipelines run.
        announce: Is told of every pipeline.

    Raises:
        ConfigError: No such dtype, or a pipeline has nothing to draw.
        SourceError: A pipeline cannot be found or loaded.
        StateError: ``out`` holds pictures of other models or settings.
        DataError: A folder's records cannot be read.
        OutputFolderError: ``out`` cannot be written, or the disk is full.
    """
    folders, patch_size = {}, None
    given = {side: image_folder(model) for side, model in models.items()}
    if None in given.values() and not prompts:
        raise ConfigError(
            "The suite has no prompts of its own",
            found="prompts = None",
            expected="a file of JSON lines with id, prompt, major_class and sub_class, or folders of images alone",
            fix="Set prompts to the file; `l2p data prompts` writes one.",
        )
    for side, model in models.items():
        folder = given[side]
        if folder is None:
            announce(f"{side} draws")
            folder = out / side
            patch_size = _draw(model, prompts, folder, config=config, device=device) or patch_size
        folders[side] = folder
    images = {side: list_images(folder, side) for side, folder in folders.items()}
    if "model" in images:
        keys, problems = set(images["model"].paths), images["model"].problems
    else:
        pairs, problems, _ = pair_folders(folders["source"], folders["pixel"])
        keys = {(pair.prompt, pair.seed) for pair in pairs}
    return Sides(
        images=images,
        keys=keys,
        problems=problems,
        num_listed={side: listed.num_listed for side, listed in images.items()},
        patch_size=patch_size,
    )


def _draw(
    model: str | Path, prompts: Sequence[Prompt], folder: Path, *, config: EvaluationConfig, device: str
) -> int | None:
    """Let a model draw; return the patch of a pixel model."""
    path = find_pipeline_folder(model)
    pipe = open_pipeline(path, dtype=parse_dtype(config.dtype))
    assert config.seeds_per_prompt is not None
    assert config.image_size_px is not None
    assert config.num_steps is not None
    synthesize(
        pipe.to(device),
        prompts,
        folder,
        seeds_per_prompt=config.seeds_per_prompt,
        image_size_px=config.image_size_px,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        seed=config.seed,
        source=source_facts(path),
    )
    return pipe.transformer.config.get("pixel_patch_size")
