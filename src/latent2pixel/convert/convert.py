"""From a latent source to a pixel pipeline: in memory, or from folder to folder."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

import latent2pixel
from latent2pixel.convert.card import CARD_NAME, model_card
from latent2pixel.convert.config import ConversionConfig, InputMap
from latent2pixel.convert.images import FitImages
from latent2pixel.convert.initialise import encode_tokens, fit_lift
from latent2pixel.convert.plan import ConversionPlan, plan_conversion, shapes_of
from latent2pixel.convert.record import RECORD_NAME, holds_conversion
from latent2pixel.convert.warm_up import WarmUp, warm_up
from latent2pixel.device import fastest_device
from latent2pixel.errors import SourceError, UnsupportedFamilyError
from latent2pixel.families import PIXEL_CLASSES, family_of, load_pixel_class
from latent2pixel.families.base import Family, require_pipeline
from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.pipeline_folder import (
    find_pipeline_folder,
    open_pipeline,
    parts_of,
    read_index,
    read_json,
    require_complete,
    save_pipeline,
)
from latent2pixel.io.safetensors_file import fingerprint
from latent2pixel.model.codec import PixelVAE
from latent2pixel.model.freezing import TrainableShare, describe, trainable_names
from latent2pixel.model.head import head_channels
from latent2pixel.model.lift import LiftFit
from latent2pixel.model.pixel_transformer import PixelTransformerMixin


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did."""

    folder: Path
    """Where the pixel pipeline lies."""
    plan: ConversionPlan
    """Kept, new and dropped tensors."""
    trainable: TrainableShare
    """What trains under the chosen recipe."""
    already_there: bool
    """True if the folder held this very conversion before, so nothing was written."""
    lift: dict[str, Any] | None = None
    """How well the lift fits (``LiftFit.report``), if there is one."""


def build_pixel_pipeline(
    pipe: Any,
    *,
    patch_size: int | None = None,
    head: str | tuple[int, ...] = "1k",
    head_feature_norm: str = "none",
    lift: LiftFit | None = None,
    lift_wiener: bool = False,
    noise_scale: float = 1.0,
    noise_shift: float | None = None,
    seed: int = 0,
) -> Any:
    """Turn a loaded source pipeline into a pixel pipeline of the same stock class; kept weights are shared, not copied.

    Args:
        pipe: A stock diffusers pipeline, the source; stays usable. Training the pixel model changes its weights too.
        patch_size: Pixels per token and axis; None keeps the source's own.
        head: Detailer head: a name of ``HEAD_CHANNELS`` or the channels of each level.
        head_feature_norm: ``"none"`` (published) or ``"layer_norm"``.
        lift: Start from this fit (``fit_lift``) instead of a random projection; the noise shift follows from it.
        lift_wiener: Whether the lift filters the decode's residual.
        noise_scale: See ``PixelVAE``; 1 with a lift.
        noise_shift: Of the scheduler, see ``ConversionConfig``; none with a lift.
        seed: Seed of the new parts' random weights.

    Returns:
        A pipeline with a ``PixelVAE`` and a pixel transformer, all other parts those of ``pipe``.

    Raises:
        UnsupportedFamilyError: If no family describes the pipeline's transformer.
        GeometryError: If the patch size does not fit.
        CheckpointError: If the transformer is not what its configuration says.
    """
    transformer = pipe.components.get("transformer")
    if transformer is None:
        raise _no_transformer(type(pipe).__name__)
    _require_latent(type(transformer).__name__)
    family = family_of(transformer)
    patch_size = family.token_px(pipe) if patch_size is None else patch_size
    options: dict[str, Any] = {
        "pixel_patch_size": patch_size,
        "head_channels": head_channels(head),
        "head_feature_norm": head_feature_norm,
    }
    pixel_class = load_pixel_class(family.name)
    empty = pixel_class.from_config_of(
        transformer.config, **options, lift_scale=None if lift is None else lift.scale, lift_wiener=lift_wiener
    )
    plan_conversion(shapes_of(transformer), shapes_of(empty), family=family)
    generator = torch.Generator().manual_seed(seed)
    pixel = pixel_class.from_source(transformer, **options, lift=lift, lift_wiener=lift_wiener, generator=generator)
    codec = PixelVAE(pixel.codec_factor, noise_scale=noise_scale).to(transformer.device)
    replaced = {"vae": codec, "transformer": pixel, "scheduler": family.scheduler(pipe)}
    if noise_shift is not None:
        replaced["scheduler"] = family.with_noise_shift(replaced["scheduler"], noise_shift)
    tokens_a_patch = pixel.pipeline_tokens((1, 1))
    if lift is None:
        replaced["scheduler"] = family.with_smaller_tokens(replaced["scheduler"], tokens_a_patch)
    else:
        token_factor = tokens_a_patch * (family.token_px(pipe) / patch_size) ** 2
        replaced["scheduler"] = family.with_shift(replaced["scheduler"], lift.scale, token_factor=token_factor)
    return with_parts(pipe, replaced)


def with_parts(pipe: Any, replaced: Mapping[str, Any]) -> Any:
    """Return a pipeline of the same class with some parts replaced; the others are shared.

    A transformer takes the place of its twins too (``Family.twins``).
    """
    if "transformer" in replaced:
        twins = family_of(replaced["transformer"]).twins
        replaced = {**replaced, **dict.fromkeys(twins, replaced["transformer"])}
    # Some pipelines take settings next to their parts; diffusers keeps those in the pipeline's config.
    settings = {
        key: pipe.config[key] for key in inspect.signature(type(pipe).__init__).parameters if key in pipe.config
    }
    return type(pipe)(**{**settings, **pipe.components, **replaced})


def convert(
    source: str | Path,
    out: str | Path,
    *,
    patch_size: int | None = None,
    recipe: str = "paper",
    head: str | tuple[int, ...] = "1k",
    head_feature_norm: str = "none",
    num_blocks: int = 5,
    fit_images: FitImages | None = None,
    input_map: InputMap = "procrustes",
    wiener: bool = False,
    warm_up_steps: int = ConversionConfig.warm_up_steps,
    noise_scale: float = 1.0,
    noise_shift: float | None = None,
    seed: int = 0,
    torch_dtype: torch.dtype | None = None,
) -> ConversionReport:
    """Convert a source on disk or on the Hub into a pixel pipeline folder that plain diffusers can load.

    The same call again returns at once. An interrupted call leaves nothing behind.

    Args:
        source: Pipeline folder, or ``owner/name`` on the Hub.
        out: Folder to make.
        patch_size: Pixels per token and axis; None keeps those of the family's releases.
        recipe: Freezing preset, of ``model.freezing.PRESETS``; only recorded and reported here, training applies it.
        head: Detailer head: a name of ``HEAD_CHANNELS`` or the channels of each level.
        head_feature_norm: ``"none"`` (published) or ``"layer_norm"``.
        num_blocks: Blocks at each end of the trunk that train.
        fit_images: Images of the source, for a start in closed form; None starts at random, as published.
        input_map: With ``fit_images``: how the map from pixels to latents is found (``LiftStatistics.fit``).
        wiener: With ``fit_images``: filter what the linear decode leaves; for a head that stays untrained.
        warm_up_steps: With ``fit_images``: steps in which stem and head learn without the trunk.
        noise_scale: How many times stronger the noise is beside the image, see ``PixelVAE``; 1 with ``fit_images``.
        noise_shift: Of the scheduler, see ``ConversionConfig``; none with ``fit_images``.
        seed: Seed of the new parts' random weights.
        torch_dtype: Dtype of all parts; None keeps the source's.

    Raises:
        SourceError: If the source cannot be found, is no pipeline, of no known family, or a pixel pipeline already.
        CheckpointError: If its weights are truncated or do not fit its configuration.
        GeometryError: If patch size and head, or patch size and the images for the fit, do not fit.
        ConfigError: If a setting does not exist.
        OutputFolderError: If ``out`` holds something else, cannot be written, or the disk is full.
    """
    folder, target = find_pipeline_folder(source), Path(out)
    config = ConversionConfig(
        patch_size=source_patch_px(folder) if patch_size is None else patch_size,
        head=head,
        head_feature_norm=head_feature_norm,
        freezing=recipe,
        num_blocks=num_blocks,
        initialisation="random" if fit_images is None else "lift",
        input_map=input_map,
        wiener=wiener,
        warm_up_steps=warm_up_steps,
        noise_scale=noise_scale,
        noise_shift=noise_shift,
        seed=seed,
    )
    plan, empty = plan_folder(folder, config)
    names = trainable_names(empty, preset=config.freezing, num_blocks=config.num_blocks)
    report = ConversionReport(folder=target, plan=plan, trainable=describe(empty, names), already_there=False)
    settings = _settings(folder, config, torch_dtype, fit_images)
    if holds_conversion(target, settings):
        return replace(report, already_there=True, lift=read_json(target / RECORD_NAME).get("lift"))
    pipe, lift = _convert_loaded(open_pipeline(folder, dtype=torch_dtype), config, fit_images)
    record = {"source": str(source), "settings": settings, **_outcome(report)}
    if lift:
        record["lift"] = lift.report() | _calibration(pipe.transformer)
    # A source that is no folder is a Hub id, see find_pipeline_folder.
    card = model_card(record, base_model=None if Path(source).is_dir() else str(source))
    with new_folder(target) as partial:
        _save(pipe, partial, source=folder, dtype=torch_dtype)
        (partial / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (partial / CARD_NAME).write_text(card, encoding="utf-8")
    return replace(report, lift=record.get("lift"))


def _save(pipe: Any, out: Path, *, source: Path, dtype: torch.dtype | None) -> None:
    """Write a converted pipeline; without another dtype, the parts that are the source's are its own files."""
    if dtype is not None:
        pipe.save_pretrained(out)
        return
    changed = ("transformer", "vae", "scheduler", *family_of(pipe.transformer).twins)
    save_pipeline(pipe, out, unchanged_from=source, changed=changed)


def _convert_loaded(source: Any, config: ConversionConfig, fit_images: FitImages | None) -> tuple[Any, LiftFit | None]:
    """Return the pixel pipeline of a loaded source, fitted and warmed up if there are images, and the fit."""
    device = fastest_device()
    tokens, lift = [], None
    if fit_images:
        source.vae.to(device)
        tokens = encode_tokens(source, fit_images, patch_size=config.patch_size)
        lift = fit_lift(
            source,
            fit_images,
            tokens,
            patch_size=config.patch_size,
            input_map=config.input_map,
            generator=torch.Generator().manual_seed(config.seed),
        )
    pipe = build_pixel_pipeline(
        source,
        patch_size=config.patch_size,
        head=config.head,
        head_feature_norm=config.head_feature_norm,
        lift=lift,
        lift_wiener=config.wiener,
        noise_scale=config.noise_scale,
        noise_shift=config.noise_shift,
        seed=config.seed,
    )
    if fit_images:
        num_tokens = pipe.transformer.pipeline_tokens(tokens[0].shape[1:])
        shift = family_of(pipe.transformer).shift(pipe.scheduler, num_tokens)
        settings = WarmUp(steps=config.warm_up_steps)
        ends = (pipe.transformer.head, pipe.transformer.lift)
        for part in ends:  # the trunk stays where it is: it does not run
            part.to(device)
        warm_up(pipe.transformer, fit_images, tokens, settings=settings, shift=shift, seed=config.seed)
        for part in ends:
            part.to("cpu")
    return pipe, lift


def _calibration(transformer: Any) -> dict[str, list[float]]:
    """Return what the warm-up has measured of a lifted model, by noise level."""
    lift = transformer.lift
    return {name: [round(value, 6) for value in getattr(lift, f"{name}_S").tolist()] for name in ("gain", "misfit")}


def plan_folder(folder: Path, config: ConversionConfig) -> tuple[ConversionPlan, PixelTransformerMixin]:
    """Plan the conversion of a source folder from its headers and configurations; no weight is read.

    Args:
        folder: Source pipeline folder.
        config: Settings of the conversion.

    Returns:
        The plan, and the pixel model on the meta device.

    Raises:
        L2PError: As ``convert``.
    """
    family = _family_of_folder(folder)
    stored = require_complete(folder).get("transformer", {})
    source_config = read_json(folder / "transformer" / "config.json")
    empty = load_pixel_class(family.name).from_config_of(
        source_config,
        pixel_patch_size=config.patch_size,
        head_channels=head_channels(config.head),
        head_feature_norm=config.head_feature_norm,
        lift_scale=1.0 if config.initialisation == "lift" else None,  # shapes do not depend on it
        lift_wiener=config.wiener,
    )
    source_shapes = {key: tensor.shape for key, tensor in stored.items()}
    return plan_conversion(source_shapes, shapes_of(empty), family=family), empty


def source_patch_px(folder: Path) -> int:
    """Return the pixels per token and axis of a source folder, as its family's releases have them.

    Raises:
        L2PError: As ``convert``.
    """
    return _family_of_folder(folder).patch_px


def _family_of_folder(folder: Path) -> Family:
    parts = parts_of(read_index(folder))
    if "transformer" not in parts:
        raise _no_transformer(str(folder))
    class_name = parts["transformer"][1]
    _require_latent(class_name)
    family = family_of(class_name)
    require_pipeline(folder, family)
    return family


def _settings(
    folder: Path, config: ConversionConfig, dtype: torch.dtype | None, fit_images: FitImages | None
) -> dict[str, Any]:
    """Return everything that decides the result, for the record and for comparison with an earlier one."""
    files = sorted(folder.glob("*/*.safetensors"))
    settings = {
        "source_files": {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "fingerprint": fingerprint(path)}
            for path in files
        },
        "patch_size": config.patch_size,
        "head_channels": list(head_channels(config.head)),
        "head_feature_norm": config.head_feature_norm,
        "recipe": config.freezing,
        "num_blocks": config.num_blocks,
        "seed": config.seed,
        "torch_dtype": str(dtype) if dtype is not None else None,
    }
    if config.noise_scale != 1:
        settings["noise_scale"] = config.noise_scale
    if config.noise_shift is not None:
        settings["noise_shift"] = config.noise_shift
    if fit_images:
        settings |= {
            "fit_images": fit_images.name,
            "input_map": config.input_map,
            "wiener": config.wiener,
            "warm_up_steps": config.warm_up_steps,
        }
    return settings


def _outcome(report: ConversionReport) -> dict[str, Any]:
    share = report.trainable
    return {
        "latent2pixel": latent2pixel.__version__,
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "plan": report.plan.counts(),
        "trainable": {"parameters": share.num_trainable, "total": share.num_total, "share": round(share.share, 6)},
    }


def _require_latent(class_name: str) -> None:
    if class_name in PIXEL_CLASSES:
        raise SourceError(
            "The source is a pixel model already",
            found=class_name,
            expected="a latent diffusion transformer with its VAE",
            fix="Pass the pipeline that this one was converted from.",
        )


def _no_transformer(found: str) -> UnsupportedFamilyError:
    return UnsupportedFamilyError(
        "The pipeline has no transformer",
        found=found,
        expected="a text-to-image pipeline around a diffusion transformer",
        fix="Choose a transformer source; U-Net models such as Stable Diffusion 1.5 and XL cannot be converted.",
    )
