"""The miniature source from nothing to a pipeline folder: VAE, latents, transformer, score, model card."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latent2pixel.device import fastest_device, machine_name
from latent2pixel.errors import ConfigError
from latent2pixel.families import family_of
from latent2pixel.io.new_folder import new_folder, write_file
from latent2pixel.world.latents import encode_scenes
from latent2pixel.world.levels import Level
from latent2pixel.world.miniature import load_miniature
from latent2pixel.world.score import Score
from latent2pixel.world.source_model import RESOLUTION_PX, SHIPPED_SOURCE
from latent2pixel.world.train_source import CURVE, SourceTrainer, SourceTraining, score_source
from latent2pixel.world.train_vae import VAETraining, train_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

NUM_CAPTIONS = 300
IMAGES_PER_CAPTION = 2
"""The final score: 300 held-out captions, two pictures each; a standard error of about 0.015 near 0.8."""
MAX_RENDERERS = 8
"""Processes that render beside a GPU: a scene takes 1.0 ms to render and 0.2 ms to draw, which this process does."""
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

    Raises:
        ConfigError: The shipped weights are of another family.
        StateError: ``out`` holds the checkpoint of another model.
    """
    work, target = out / "work", out / "source"
    device = fastest_device().type
    # A CPU has no core to spare beside the network; a GPU waits for pictures.
    num_processes = 0 if device == "cpu" else min(torch.get_num_threads(), MAX_RENDERERS)
    if from_shipped:
        pipe = _shipped(settings).to(device)
    else:
        vae = _vae(work / "vae", level, vae_settings, device=device, num_processes=num_processes, announce=announce)
        pipe = _fresh(vae, settings).to(device)
    announce(f"{num_scenes} scenes as latents")
    scenes = encode_scenes(pipe.vae.eval(), level, work / "latents", num=num_scenes, num_processes=num_processes)
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
    card = model_card(score, tried, guidance_scale=best, level=level, settings=settings, trainer=trainer)
    with new_folder(target, replace=True) as part:
        _save(pipe, part, card=card, score=score, curve=work / CURVE)
    return target


def _save(pipe: Any, part: Path, *, card: str, score: Score, curve: Path) -> None:
    pipe.to(dtype=torch.bfloat16).save_pretrained(part)
    _forget_origin(part / "vae" / "config.json")
    shutil.copy(curve, part / CURVE)
    write_file(part / "score.json", json.dumps(score.as_record(), indent=2) + "\n")
    write_file(part / "README.md", card)


def _forget_origin(config: Path) -> None:
    """Remove the folder of this machine that diffusers writes into the configuration of a loaded part."""
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    write_file(config, json.dumps(kept, indent=2) + "\n")


def _try_guidances(
    pipe: Any, level: Level, guidance_scales: Sequence[float], *, num_captions: int
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
    pipe, family, defaults = trainer.pipe, trainer.family, asdict(SourceTraining())
    encoder = type(pipe.text_encoder).__name__
    num_blocks = sum(len(getattr(pipe.transformer, blocks)) for blocks in family.image_blocks)
    shift = family.shift(pipe.scheduler, (RESOLUTION_PX // family.token_px(pipe)) ** 2)
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

A tiny but real latent text-to-image model: `{type(pipe).__name__}` with an `AutoencoderKL` (8x, 4 channels), a
`{type(pipe.transformer).__name__}` (width {family.width(pipe.transformer)}, {num_blocks} blocks), text by `{encoder}`
and the family's scheduler (noise shift {shift:.3g}). It draws scenes of latent2pixel's procedural world, level
"{level.name}", at {RESOLUTION_PX} px. No data from outside was used.

Score by the world's exact verifier on held-out captions, guidance {guidance_scale:g}, 16 Euler steps:
**{score.score:.3f} +- {score.standard_error:.3f}** (chance {score.chance:.3f}; {score.num_images} images of
{score.num_captions} captions; one training seed). Held out are sentences: most of their contents also occur in training
captions with other words around them. Guidance was chosen on another draw of held-out captions
({guidances}).

| task | score | standard error | chance | images |
| --- | --- | --- | --- | --- |
{rows}

Trained for {trainer.step} steps of {settings.batch_size} scenes in {trainer.seconds / 60:.0f} minutes on
{machine_name()}, torch {torch.__version__}, {date.today().isoformat()}; `curve.jsonl`
holds loss and scores on the way (60 held-out captions, guidance {settings.guidance_scale:g}). Settings of the
last call: `l2p world train-source OUT --level {level.name}{changed}`.
"""


def _fresh(vae: "AutoencoderKL", settings: SourceTraining) -> Any:
    torch.manual_seed(settings.seed)
    return load_miniature(settings.family).build(vae, dim=settings.dim, num_layers=settings.num_layers)


def _vae(
    folder: Path,
    level: Level,
    settings: VAETraining,
    *,
    device: str,
    num_processes: int,
    announce: Callable[[str], None],
) -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    if not folder.exists():
        announce(f"VAE: {settings.steps} steps")
        vae = train_vae(level, settings, device=device, num_processes=num_processes)
        with new_folder(folder) as part:
            vae.save_pretrained(part)
    return AutoencoderKL.from_pretrained(folder).eval()


def _shipped(settings: SourceTraining) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(SHIPPED_SOURCE, dtype=torch.float32)
    found = family_of(pipe.transformer).name
    if settings.family != found:
        raise ConfigError(
            "The shipped weights are of another family than the one asked for",
            found=settings.family,
            expected=found,
            fix="Leave --from-shipped out, or the setting family.",
        )
    return pipe
