"""The training job: a converted model and a folder of images in, a trained pixel model out."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers import __version__ as diffusers_version
from torch import Tensor
from torch.utils.data import Subset

import latent2pixel
from latent2pixel.config import dump_yaml, load_yaml
from latent2pixel.convert.initialise import latent_tokens
from latent2pixel.convert.record import RECORD_NAME
from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.data.buckets import bucket_sizes
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.encoded_cache import EncodedCache
from latent2pixel.data.told_images import ToldImages
from latent2pixel.errors import ConfigError, GeometryError, StateError
from latent2pixel.families import family_of
from latent2pixel.families.base import Family, require_pixel_pipeline
from latent2pixel.generate import load_pipeline
from latent2pixel.io.merge import merge_pipeline
from latent2pixel.io.new_folder import new_folder, write_file
from latent2pixel.io.pipeline_folder import (
    find_pipeline_folder,
    open_pipeline,
    parts_of,
    read_index,
    read_json,
)
from latent2pixel.io.safetensors_file import fingerprint_of_folders
from latent2pixel.model.freezing import TrainableShare
from latent2pixel.train import TrainConfig, TrainReport, train
from latent2pixel.train.batch_loss import EncodedPrompts
from latent2pixel.train.for_model import is_checkpointed, rate_factor_of, trained_share
from latent2pixel.train.lora import save_lora, scale_of, with_low_ranks
from latent2pixel.train.processes import processes
from latent2pixel.train.step import Latents
from latent2pixel.workflow.encoders import Encoders
from latent2pixel.workflow.looks import Looks, held_out, readable

logger = logging.getLogger(__name__)

RECORD = "run.yaml"
MODEL = "model"
"""Folder of the trained pipeline, beside ``run.yaml``."""
LORA = "lora"
"""Beside it: the LoRA that the trained pipeline holds already, alone, if the run trained one."""
LISTING = "images.jsonl"
"""Beside ``run.yaml``: what the run found of its data when it began, see ``data/listing.py``."""
TRAINING_RECORD = "training.json"
"""Beside ``model_index.json``: the steps that the saved weights have seen."""
MAY_CHANGE = ("train.steps", "train.num_workers", "train.max_bad_images", "latent2pixel", "torch")
"""Entries of ``run.yaml`` that a run may go on with others of."""
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
    """Images that could not be used, each with the reason."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What ``run.yaml`` holds: enough to repeat the run."""

    model: str
    images: str
    mix: dict[str, float]
    """More folders of images, each with its share."""
    latent2pixel: str
    torch: str
    train: TrainConfig


def transfer(
    model: Path,
    images: Path,
    out: Path,
    *,
    config: TrainConfig,
    mix: Mapping[Path, float] | None = None,
    source: str | Path | None = None,
    on_validate: Callable[[int, DiffusionPipeline], Mapping[str, float]] | None = None,
    announce: Callable[[str], None] = logger.info,
) -> TransferReport:
    """Train a converted model on a folder of images; the same call again goes on where it stopped.

    Args:
        model: Folder of the converted pipeline.
        images: Folder of images and prompts, as ``data.synthesize`` writes it.
        out: Run folder; the trained pipeline appears in its sub-folder ``model``, a trained LoRA in ``lora`` too.
        config: The run's settings.
        mix: More folders of images, each with its share of what is shown; the rest of 1 is the first folder's.
        source: The latent model behind the converted one; only the objective "source" needs it. None takes the one that
            the conversion recorded.
        on_validate: Called after each validation grid with the step and the pipeline; returns numbers to log, by name.
        announce: Takes the line that says what trains, before training starts.

    Raises:
        StateError: The run folder belongs to other settings or other data.
        L2PError: The model, the images or a checkpoint cannot be used.
    """
    folder, own = find_pipeline_folder(model), processes()
    require_pixel_pipeline(folder)
    encoders = Encoders(folder, own.device)
    pipe = load_pipeline(folder, without=encoders.names)
    _require_size(pipe, config)
    share = trained_share(pipe.transformer, config)
    config = replace(
        config,
        trunk_rate_factor=rate_factor_of(pipe.transformer, config),
        gradient_checkpointing=is_checkpointed(pipe.transformer, config),
    )
    _require_unflipped(encoders.family, config)
    latents = None
    if config.objective == "source":
        patch_size = pipe.transformer.config.pixel_patch_size
        latents = _source_latents(folder, source, patch_size=patch_size, device=own.device)
    with own.main_process_first():
        # The first process writes what it has found, the others take it from there.
        dataset = ImageFolderDataset(
            images,
            config.image_size_px,
            patch_px=pipe.transformer.config.pixel_patch_size if config.aspect_buckets else None,
            mix=mix,
            listing=out / LISTING,
        )
        _claim(out, model=model, images=images, mix=mix or {}, config=config)
        if not (out / LISTING).exists():
            dataset.save_listing(out / LISTING)
        prompts, items = _encoded(encoders, dataset, out, folder=folder)
    if own.is_main_process:
        announce(_what_trains(share, config, type(pipe.transformer).__name__))
    pipe.vae.to(own.device)  # the training moves the transformer, once its weights are small
    batches, looks = _in_order(items, dataset, prompts.__getitem__, encoders, out, config=config)
    report = train(
        pipe,
        batches,
        prompts.__getitem__,
        out=out,
        config=config,
        latents=latents,
        validate=replace(looks, on_validate=on_validate),
    )
    if own.is_main_process and _steps_of(out / MODEL) != report.steps:
        # A run that goes on to more steps leaves a model of fewer behind.
        parts = ("transformer", *encoders.family.twins)
        _save(pipe.transformer, out, base=folder, parts=parts, config=config, steps=report.steps)
    own.wait_for_everyone()
    skipped = [*dataset.skipped, *batches.bad.values()]
    return TransferReport(model=out / MODEL, training=report, skipped_images=skipped)


def _save(transformer: Any, out: Path, *, base: Path, parts: Collection[str], config: TrainConfig, steps: int) -> None:
    """Write the trained pipeline and, if there is one, its LoRA alone.

    Args:
        transformer: As training left it.
        out: Run folder.
        base: Pipeline folder that the run started from.
        parts: Parts of the pipeline that take the trained weights.
        config: Settings of the run.
        steps: That the weights have seen.
    """
    trained = {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    changes = with_low_ranks(trained, scale=scale_of(config.lora_rank, config.lora_alpha))
    if config.lora_rank:
        with new_folder(out / LORA, replace=True) as part:
            save_lora(part, changes)
    with new_folder(out / MODEL, replace=True) as part:
        merge_pipeline(base, part, changes, parts=parts)
        write_file(part / TRAINING_RECORD, json.dumps({"steps": steps}) + "\n")


def _what_trains(share: TrainableShare, config: TrainConfig, class_name: str) -> str:
    """Say in one line what trains."""
    blocks = f"{config.num_blocks} + {config.num_blocks} blocks"
    if config.lora_rank:
        blocks = f"a LoRA of rank {config.lora_rank} on all blocks"
    return (
        f"training {share.num_trainable:,} of {share.num_total:,} parameters ({share.share:.1%}), "
        f"{share.num_trainable_tensors} of {share.num_tensors} tensors: "
        f"preset '{config.freezing}', {blocks} of {class_name}"
    )


def _encoded(
    encoders: Encoders, dataset: ImageFolderDataset, out: Path, *, folder: Path
) -> tuple[EncodedCache, ImageFolderDataset | ToldImages]:
    """Return the cached prompts of the data, and the data with what the model is told of its images, if of any.

    Encoders are loaded only for what no cache holds yet, and none stays in memory.
    """
    family = encoders.family
    prompts = EncodedCache.build(
        out / "text",
        [family.null_prompt, *dataset.prompts],
        encoders.encode,
        batch_size=ENCODE_BATCH,
        # Another diffusers may encode in another way, such as to another length.
        fingerprint=fingerprint_of_folders([*folder.glob("text_encoder*"), *folder.glob("tokenizer*")])
        + diffusers_version,
    )
    items: ImageFolderDataset | ToldImages = dataset
    if family.reads_images:
        image_encoders = [*folder.glob("vision_language_encoder*"), *folder.glob("processor*")]
        items = ToldImages(
            dataset,
            out / "told",
            encoders.encode_images,
            batch_size=IMAGE_BATCH,
            fingerprint=fingerprint_of_folders(image_encoders) + diffusers_version,
        )
    encoders.close()
    return prompts, items


def _in_order(
    items: ImageFolderDataset | ToldImages,
    dataset: ImageFolderDataset,
    encoded: EncodedPrompts,
    encoders: Encoders,
    out: Path,
    *,
    config: TrainConfig,
) -> tuple[Batches, Looks]:
    """Return the images that train, in the run's order, and those that are looked at."""
    chosen = held_out(dataset.prompts, config.heldout_prompts)
    kept = [index for index, prompt in enumerate(dataset.prompts) if prompt not in chosen]
    heldout = [index for index, prompt in enumerate(dataset.prompts) if prompt in chosen]
    first_of = {prompt: index for index, prompt in reversed(list(enumerate(dataset.prompts)))}
    shown = sorted(first_of.values(), key=lambda index: (dataset.prompts[index] not in chosen, index))
    plan = BatchPlan(
        [dataset.sizes[index] for index in kept],
        [dataset.weights[index] for index in kept],
        batch_size=config.batch_size,
        seed=config.seed,
    )
    batches = Batches(
        items if not chosen else Subset(items, kept),
        plan,
        names=[dataset.paths[index] for index in kept],
        seed=config.seed,
        num_workers=config.num_workers,
        horizontal_flip=config.horizontal_flip,
        max_bad_images=config.max_bad_images,
    )
    looks = Looks(
        encoders=encoders,
        shown=list(readable(Subset(items, shown[: config.validation_images]))),
        heldout=Subset(items, heldout),
        encoded=encoded,
        folder=out / "validation",
        config=config,
    )
    return batches, looks


def _source_latents(model: Path, source: str | Path | None, *, patch_size: int, device: torch.device) -> Latents:
    """Return the function from images to latent tokens of the source behind a converted model."""
    folder = source_folder(model, source)
    parts = parts_of(read_index(folder))
    family = family_of(parts["transformer"][1])
    pipe = open_pipeline(folder, without=[name for name in parts if name not in ("vae", "scheduler")])
    pipe.vae.to(device)

    def latents(images_BCHW: Tensor) -> Tensor:
        return latent_tokens(pipe, images_BCHW, family=family, patch_size=patch_size)

    return latents


def source_folder(model: Path, source: str | Path | None) -> Path:
    """Return the pipeline folder of the source behind a converted model.

    Args:
        model: Folder of the converted pipeline.
        source: Folder or Hub id; None takes the one that the conversion recorded.

    Raises:
        StateError: The model has been trained since it was converted.
        ConfigError: Nothing says what its source is.
    """
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
    return find_pipeline_folder(source)


def recipe_of(model: Path) -> str:
    """Return the name of the recipe with which a model was converted, "paper" if it has no record."""
    path = model / RECORD_NAME
    if not path.exists():
        return "paper"
    record = read_json(path)
    return "lift" if "lift" in record else str(record["settings"]["recipe"])


def _steps_of(model: Path) -> int | None:
    """Return the steps that a saved model has seen, None if there is no finished one."""
    path = model / TRAINING_RECORD
    return json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else None


def _require_size(pipe: DiffusionPipeline, config: TrainConfig) -> None:
    """Check that the model can take every size of the run's images."""
    patch, size_px = pipe.transformer.config.pixel_patch_size, config.image_size_px
    if size_px % patch:
        raise GeometryError(
            "The training image size does not divide into whole patches",
            found=f"image_size_px {size_px}",
            expected=f"a multiple of the model's patch size {patch}",
            fix=f"Set image_size_px to {max(patch, size_px // patch * patch)}.",
        )
    sizes = bucket_sizes(size_px, patch_px=patch) if config.aspect_buckets else [(size_px, size_px)]
    for height, width in sizes:
        pipe.transformer.grid_of_size(height, width)


def _require_unflipped(family: Family, config: TrainConfig) -> None:
    if family.reads_images and config.horizontal_flip:
        raise ConfigError(
            "This source is told of the images as they are",
            found="horizontal_flip=true",
            expected="horizontal_flip=false: what is told of an image is not that of its mirror image",
            fix="Leave horizontal_flip out.",
        )


def _claim(out: Path, *, model: Path, images: Path, mix: Mapping[Path, float], config: TrainConfig) -> None:
    """Write ``run.yaml`` into a new run folder, or check that the folder's own is equal but for the number of steps."""
    record = RunRecord(
        model=str(model),
        images=str(images),
        mix={str(folder): share for folder, share in mix.items()},
        latent2pixel=latent2pixel.__version__,
        torch=torch.__version__,
        train=config,
    )
    path = out / RECORD
    if path.exists():
        before, now = _flat(load_yaml(path)), _flat(json.loads(json.dumps(asdict(record))))
        differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed := [key for key in differing if key not in MAY_CHANGE]:
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
