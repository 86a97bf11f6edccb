"""Cached latents of rendered scenes: the training data of the miniature source's transformer."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from latent2pixel.world.levels import Level
from latent2pixel.world.render_ahead import render_ahead
from latent2pixel.world.scenes import Scene, draw_scene
from latent2pixel.world.source_model import RESOLUTION_PX
from latent2pixel.world.train_vae import images_from_bytes

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class LatentScenes:
    """Latents of training scenes, normalised to mean 0 and std 1, with their captions."""

    latents: Tensor
    """Shape (N, C, H / 8, W / 8), bfloat16."""
    captions: tuple[str, ...]


@torch.no_grad()
def encode_scenes(
    vae: "AutoencoderKL", level: Level, folder: Path, *, num: int, seed: int = 0, num_processes: int = 0
) -> LatentScenes:
    """Encode training scenes, or load them if the folder holds them already.

    Args:
        vae: Trained VAE, on the device that encodes; its ``scaling_factor`` and ``shift_factor`` are applied.
        level: Level of the scenes.
        folder: Where ``latents.safetensors`` and ``captions.json`` are kept.
        num: Number of scenes.
        seed: Seed of the scenes.
        num_processes: Processes that render them.
    """
    tensor_path, caption_path = folder / "latents.safetensors", folder / "captions.json"
    if not (tensor_path.exists() and caption_path.exists()):
        generator = random.Random(seed)
        texts: list[str] = []
        parts = []

        def batches() -> Iterator[list[Scene]]:
            for start in range(0, num, BATCH_SIZE):
                scenes = [draw_scene(level, "train", generator=generator) for _ in range(min(BATCH_SIZE, num - start))]
                texts.extend(scene.caption.text for scene in scenes)
                yield scenes

        rendered = render_ahead(batches(), RESOLUTION_PX, num_processes=num_processes)
        for bytes_BHWC in tqdm(rendered, total=math.ceil(num / BATCH_SIZE), desc="latents", unit="batch"):
            with torch.autocast(vae.device.type, torch.bfloat16):
                mean = vae.encode(images_from_bytes(bytes_BHWC, vae.device)).latent_dist.mean
            latents = (mean.float() - vae.config.shift_factor) * vae.config.scaling_factor
            parts.append(latents.to("cpu", torch.bfloat16))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"latents": torch.cat(parts).contiguous()}, tensor_path)
        caption_path.write_text(json.dumps(texts))
    return LatentScenes(latents=load_file(tensor_path)["latents"], captions=tuple(json.loads(caption_path.read_text())))
