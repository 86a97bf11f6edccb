"""The training job: a converted model and a folder of images in, a trained pixel model out."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers import __version__ as diffusers_version
from torch import Tensor

import latent2pixel
from latent2pixel.config import dump_yaml, load_yaml
from latent2pixel.convert.convert import RECORD_NAME
from latent2pixel.convert.initialise import latent_tokens
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.encoded_cache import EncodedCache
from latent2pixel.data.told_images import ToldImages
from latent2pixel.errors import ConfigError, GeometryError, StateError
from latent2pixel.families import family_of
from latent2pixel.generate import load_pipeline
from latent2pixel.io.images import image_grid, save_image
from latent2pixel.io.new_folder import new_folder, write_file
from latent2pixel.io.pipeline_folder import (
    find_pipeline_folder,
    open_pipeline,
    parts_of,
    read_index,
    read_json,
    save_pipeline,
)
from latent2pixel.io.safetensors_file import fingerprint_of_folders
from latent2pixel.model import freezing
from latent2pixel.train import TrainConfig, TrainReport, train
from latent2pixel.train.for_model import is_checkpointed, rate_factor_of, trained_names
from latent2pixel.train.step import Latents

logger = logging.getLogger(__name__)

RECORD = "run.yaml"
TRAINING_RECORD = "training.json"
"""Beside ``model_index.json``: the steps that the saved weights have seen."""
ENCODE_BATCH = 64
IMAGE_BATCH = 8
"""Images at a time for an encoder of images: 1024 x 1024 px are thousands of its tokens each."""


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What a training job made."""

    model: Path
    """Folder of the trained pixel pipeline."""
    training: TrainReport
    skipped_images: list[str]
    """Images that could not be read."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What ``run.yaml`` holds: enough to repeat the run."""

    model: str
    images: str
    latent2pixel: str
    torch: str
    train: TrainConfig


def transfer(
    model: Path,
    images: Path,
    out: Path,
    *,
    config: TrainConfig,
    source: str | Path | None = None,
    on_validate: Callable[[int, DiffusionPipeline], None] | None = None,
    announce: Callable[[str], None] = logger.info,
) -> TransferReport:
    """Train a converted model on a folder of images; the same call again goes on where it stopped.

    Args:
        model: Folder of the converted pipeline.
        images: Folder of images and prompts, as ``data.synthesize`` writes it.
        out: Run folder; the trained pipeline appears in its sub-folder ``model``.
        config: The run's settings.
        source: The latent model behind the converted one; only the objective "source" needs it. None takes the one that
            the conversion recorded.
        on_validate: Called after each validation grid with the step and the pipeline.
        announce: Takes the line that says what trains, before training starts.

    Raises:
        StateError: The run folder belongs to other settings.
        L2PError: The model, the images or a checkpoint cannot be used.
    """
    folder = find_pipeline_folder(model)
    pipe = load_pipeline(folder)
    _require_size(pipe, config.image_size_px)
    dataset = ImageFolderDataset(images, config.image_size_px)
    share = freezing.describe(pipe.transformer, trained_names(pipe.transformer, config))
    config = replace(
        config,
        trunk_rate_factor=rate_factor_of(pipe.transformer, config),
        gradient_checkpointing=is_checkpointed(pipe.transformer, config),
    )
    latents = None
    if config.objective == "source":
        latents = _source_latents(folder, source, patch_size=pipe.transformer.config.pixel_patch_size)
    _claim(out, model=model, images=images, config=config)
    announce(
        f"training {share.num_trainable:,} of {share.num_total:,} parameters ({share.share:.1%}), "
        f"{share.num_trainable_tensors} of {share.num_tensors} tensors: preset '{config.freezing}', "
        f"{config.num_blocks} + {config.num_blocks} blocks of {type(pipe.transformer).__name__}"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe.to(device)
    family = family_of(pipe.transformer)
    family.require_text_encoders(pipe)
    cache = EncodedCache.build(
        out / "text",
        [family.null_prompt, *dataset.prompts],
        lambda prompts: family.encode(pipe, prompts),
        batch_size=ENCODE_BATCH,
        # What the embeddings depend on: the weights of a text encoder, its tokenizer's files, the code that calls both.
        fingerprint=fingerprint_of_folders([*folder.glob("text_encoder*"), *folder.glob("tokenizer*")])
        + diffusers_version,
    )
    items = _told_images(pipe, dataset, out / "told", folder=folder) if family.reads_images else dataset

    def validate(step: int, shown: DiffusionPipeline) -> Tensor:
        grid_CHW = save_validation_grid(
            shown, dataset.prompts, out / "validation" / f"step-{step:08d}.png", config=config
        )
        if on_validate is not None:
            on_validate(step, shown)
        return grid_CHW

    report = train(pipe, items, cache.__getitem__, out=out, config=config, latents=latents, validate=validate)
    trained = out / "model"
    if _steps_of(trained) != report.steps:
        # A run that goes on to more steps leaves a model of fewer behind.
        with new_folder(trained, replace=True) as part:
            save_pipeline(pipe.to("cpu"), part, unchanged_from=folder, changed=("transformer", *family.twins))
            write_file(part / TRAINING_RECORD, json.dumps({"steps": report.steps}) + "\n")
    return TransferReport(model=trained, training=report, skipped_images=list(dataset.skipped))


def _told_images(pipe: DiffusionPipeline, dataset: ImageFolderDataset, caches: Path, *, folder: Path) -> ToldImages:
    """Return the training set with what a pipeline tells its transformer of each image."""
    encoders = [*folder.glob("vision_language_encoder*"), *folder.glob("processor*")]
    return ToldImages(
        dataset,
        caches,
        partial(family_of(pipe.transformer).encode_images, pipe),
        batch_size=IMAGE_BATCH,
        fingerprint=fingerprint_of_folders(encoders) + diffusers_version,
    )


def _source_latents(model: Path, source: str | Path | None, *, patch_size: int) -> Latents:
    """Return the function from images to latent tokens of the source behind a converted model."""
    if (model / TRAINING_RECORD).exists():
        raise StateError(
            "The objective 'source' takes the model as it was converted for its teacher",
            found=f"a model that has been trained already, in {model}",
            expected="a folder made by `l2p convert --recipe lift`",
            fix="Train the converted model, or choose objective=images.",
        )
    record = model / RECORD_NAME
    if source is None and record.exists():
        source = read_json(record)["source"]
    if source is None:
        raise ConfigError(
            "The objective 'source' needs the latent model behind the converted one",
            found=f"no source, and no {RECORD_NAME} in {model}",
            expected="the folder or the Hub id of the source",
            fix="Name it with --source.",
        )
    folder = find_pipeline_folder(source)
    parts = parts_of(read_index(folder))
    family = family_of(parts["transformer"][1])
    pipe = open_pipeline(folder, without=[name for name in parts if name not in ("vae", "scheduler")])
    pipe.vae.to("cuda" if torch.cuda.is_available() else "cpu")

    def latents(images_BCHW: Tensor) -> Tensor:
        return latent_tokens(pipe, images_BCHW, family=family, patch_size=patch_size)

    return latents


def recipe_of(model: Path) -> str:
    """Return the name of the recipe with which a model was converted, "paper" if it has no record."""
    path = model / RECORD_NAME
    if not path.exists():
        return "paper"
    record = read_json(path)
    return "lift" if "lift" in record else str(record["settings"]["recipe"])


def save_validation_grid(pipe: DiffusionPipeline, prompts: list[str], path: Path, *, config: TrainConfig) -> Tensor:
    """Sample the first distinct prompts with fixed noise, save them as one picture and return it, (3, H, W)."""
    chosen = list(dict.fromkeys(prompts))[: config.validation_images]
    pipe.set_progress_bar_config(disable=True)
    family = family_of(pipe.transformer)
    options = family.call_options(pipe, guidance_scale=config.validation_guidance, num_prompts=len(chosen))
    pictures = family.images(
        pipe,
        prompt=list(chosen),
        height=config.image_size_px,
        width=config.image_size_px,
        num_inference_steps=config.validation_steps,
        generator=[torch.Generator().manual_seed(index) for index in range(len(chosen))],
        **options,
        output_type="pt",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    grid_CHW = image_grid(list(pictures.float().cpu() * 2 - 1), columns=4)
    save_image(path, grid_CHW)
    return grid_CHW


def _steps_of(model: Path) -> int | None:
    """Return the steps that a saved model has seen, None if there is no finished one."""
    path = model / TRAINING_RECORD
    return json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else None


def _require_size(pipe: DiffusionPipeline, size_px: int) -> None:
    patch = pipe.transformer.config.pixel_patch_size
    if size_px % patch:
        raise GeometryError(
            "The training image size does not divide into whole patches",
            found=f"image_size_px {size_px}",
            expected=f"a multiple of the model's patch size {patch}",
            fix=f"Set image_size_px to {max(patch, size_px // patch * patch)}.",
        )


def _claim(out: Path, *, model: Path, images: Path, config: TrainConfig) -> None:
    """Write ``run.yaml`` into a new run folder, or check that the folder's own is equal but for the number of steps."""
    record = RunRecord(
        model=str(model),
        images=str(images),
        latent2pixel=latent2pixel.__version__,
        torch=torch.__version__,
        train=config,
    )
    path = out / RECORD
    if path.exists():
        before, now = _flat(load_yaml(path)), _flat(json.loads(json.dumps(asdict(record))))
        differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed := [key for key in differing if key not in ("train.steps", "latent2pixel", "torch")]:
            raise StateError(
                "The run folder belongs to a run with other settings",
                found=", ".join(f"{key} = {now.get(key)}" for key in changed),
                expected=", ".join(f"{key} = {before.get(key)}" for key in changed) + f", as in {path}",
                fix="Go on with the settings of run.yaml, or choose another output folder.",
            )
    out.mkdir(parents=True, exist_ok=True)
    dump_yaml(record, path)


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
