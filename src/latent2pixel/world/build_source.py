"""The miniature source from nothing to a pipeline folder: VAE, latents, transformer, score, model card."""

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from latent2pixel.io.new_folder import new_folder, write_file
from latent2pixel.world.latents import encode_scenes
from latent2pixel.world.levels import Level
from latent2pixel.world.score import Score
from latent2pixel.world.source_model import (
    NOISE_SHIFT,
    RESOLUTION_PX,
    SHIPPED_SOURCE,
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
)
from latent2pixel.world.train_source import CURVE, SourceTrainer, SourceTraining, score_source
from latent2pixel.world.train_vae import VAETraining, train_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ZImagePipeline

NUM_CAPTIONS = 300
IMAGES_PER_CAPTION = 2
"""The final score: 300 held-out captions, two pictures each; a standard error of about 0.015 near 0.8."""
GUIDANCE_SCALES = (2.0, 3.0, 5.0, 7.0)
"""Guidances tried on another draw of held-out captions than the final score's, which is made with the best of them."""


def build_source(
    out: Path,
    *,
    level: Level,
    vae_settings: VAETraining,
    settings: SourceTraining,
    num_scenes: int = 50_000,
    from_shipped: bool = False,
    num_captions: int = NUM_CAPTIONS,
    guidance_scales: Sequence[float] = GUIDANCE_SCALES,
    announce: Callable[[str], None],
) -> Path:
    """Train the miniature source, or go on where an earlier call stopped.

    Args:
        out: Receives ``work`` (VAE, latents, checkpoint, curve) and, at the end, ``source`` (the pipeline).
        level: Level of the world.
        vae_settings: Settings of the VAE's training.
        settings: Settings of the transformer's training.
        num_scenes: Scenes whose latents are cached.
        from_shipped: Start from the shipped weights instead of fresh ones.
        num_captions: Held-out captions of the final score, two pictures each.
        guidance_scales: Guidances to choose from, on another draw of 2/5 as many held-out captions.
        announce: Takes one line for each stage.

    Returns:
        The pipeline's folder.
    """
    work, target = out / "work", out / "source"
    pipe = _shipped() if from_shipped else _fresh(work, level, vae_settings, settings, announce)
    announce(f"{num_scenes} scenes as latents")
    scenes = encode_scenes(pipe.vae.eval(), level, work / "latents", num=num_scenes)
    trainer = SourceTrainer(pipe, scenes, level=level, folder=work, settings=settings)
    trainer.train()
    pipe.to(dtype=torch.float32)
    announce("guidance")
    tried = _try_guidances(pipe, level, guidance_scales, num_captions=num_captions * 2 // 5)
    for guidance_scale, score in tried.items():
        announce(f"guidance {guidance_scale:g}: {score}")
    best = max(tried, key=lambda guidance_scale: tried[guidance_scale].score)
    announce("score on held-out captions")
    score = score_source(
        pipe, level, num_captions=num_captions, images_per_caption=IMAGES_PER_CAPTION, seed=0, guidance_scale=best
    )
    announce(str(score))
    with new_folder(target, replace=True) as part:
        pipe.to(dtype=torch.bfloat16).save_pretrained(part)
        _forget_origin(part / "vae" / "config.json")
        shutil.copy(work / CURVE, part / CURVE)
        write_file(part / "score.json", json.dumps(score.as_record(), indent=2) + "\n")
        card = model_card(score, tried, guidance_scale=best, level=level, settings=settings, trainer=trainer)
        write_file(part / "README.md", card)
    return target


def _forget_origin(config: Path) -> None:
    """Remove the folder of this machine that diffusers writes into the configuration of a loaded part."""
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    write_file(config, json.dumps(kept, indent=2) + "\n")


def _try_guidances(
    pipe: "ZImagePipeline", level: Level, guidance_scales: Sequence[float], *, num_captions: int
) -> dict[float, Score]:
    """Return the score of each guidance, on the captions of the scores during training."""
    return {
        guidance_scale: score_source(
            pipe, level, num_captions=num_captions, images_per_caption=1, seed=1, guidance_scale=guidance_scale
        )
        for guidance_scale in guidance_scales
    }


def model_card(
    score: Score,
    tried: dict[float, Score],
    *,
    guidance_scale: float,
    level: Level,
    settings: SourceTraining,
    trainer: SourceTrainer,
) -> str:
    """Return the card of a trained miniature source.

    Args:
        score: Final score.
        tried: Score of every guidance tried.
        guidance_scale: The guidance chosen.
        level: Level of the world.
        settings: Settings of the training.
        trainer: Holds its steps and seconds.
    """
    guidances = ", ".join(f"{scale:g}: {each.score:.3f} +- {each.standard_error:.3f}" for scale, each in tried.items())
    config, defaults = trainer.pipe.transformer.config, asdict(SourceTraining())
    changed = "".join(f" --set {key}={value}" for key, value in asdict(settings).items() if value != defaults[key])
    rows = "\n".join(
        f"| {task} | {part.score:.3f} | {part.standard_error:.3f} | {part.chance:.3f} | {part.num_images} |"
        for task, part in score.tasks.items()
    )
    return f"""---
library_name: diffusers
license: apache-2.0
pipeline_tag: text-to-image
---
# Miniature source of latent2pixel

A tiny but real latent text-to-image model: `ZImagePipeline` with an `AutoencoderKL` (8x, 4 channels), a
`ZImageTransformer2DModel` (width {config.dim}, {config.n_layers} blocks), a Qwen3 text encoder and Z-Image's
scheduler (shift {NOISE_SHIFT:g}). It draws scenes of latent2pixel's procedural world, level "{level.name}", at
{RESOLUTION_PX} px. No data from outside was used.

Score by the world's exact verifier on held-out captions, guidance {guidance_scale:g}, 16 Euler steps:
**{score.score:.3f} +- {score.standard_error:.3f}** (chance {score.chance:.3f}; {score.num_images} images of
{score.num_captions} captions; one training seed). Held out are sentences: most of their contents also occur in training
captions with other words around them. Guidance was chosen on another draw of held-out captions
({guidances}).

| task | score | standard error | chance | images |
| --- | --- | --- | --- | --- |
{rows}

Trained for {trainer.step} steps of {settings.batch_size} scenes in {trainer.seconds / 60:.0f} minutes on
{os.cpu_count()} cores ({platform.machine()}, torch {torch.__version__}), {date.today().isoformat()}; `curve.jsonl`
holds loss and scores on the way (60 held-out captions, guidance {settings.guidance_scale:g}). Settings of the
last call: `l2p world train-source OUT --level {level.name}{changed}`.
"""


def _fresh(
    work: Path,
    level: Level,
    vae_settings: VAETraining,
    settings: SourceTraining,
    announce: Callable[[str], None],
) -> "ZImagePipeline":
    vae = _load_or_train_vae(work / "vae", level, vae_settings, announce)
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer()
    return build_pipeline(
        vae=vae,
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer)),
        transformer=build_transformer(dim=settings.dim, num_layers=settings.num_layers),
    )


def _load_or_train_vae(
    folder: Path, level: Level, settings: VAETraining, announce: Callable[[str], None]
) -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    if not folder.exists():
        announce(f"VAE: {settings.steps} steps")
        vae = train_vae(level, settings)
        with new_folder(folder) as part:
            vae.save_pretrained(part)
    return AutoencoderKL.from_pretrained(folder).eval()


def _shipped() -> "ZImagePipeline":
    from diffusers import ZImagePipeline

    return ZImagePipeline.from_pretrained(SHIPPED_SOURCE, dtype=torch.float32)
