"""The models of ``efficiency.py`` and ``sample.py``: sources and pixel models with random weights, by name and size."""

import json
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline

import latent2pixel
from latent2pixel.families import load_family, load_pixel_class
from latent2pixel.families.catalogue import full_config, releases
from latent2pixel.model.codec import PixelVAE
from latent2pixel.model.head import HEAD_CHANNELS
from latent2pixel.model.patch import largest_power_of_two
from lift_scale import VAE

FAMILY = "z_image"
SHIPPED = Path(latent2pixel.__file__).parent / "world" / "assets" / "source"
TOKEN_GRID_PX = 1024
"""Up to this size the patch stays 16."""
DEEP_HEAD_FROM_PATCH = 64
MIDDLE = {"dim": 512, "n_layers": 6, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4}
"""For CPUs: about an eighth of Z-Image's width, a fifth of its depth."""
MIDDLE_VAE = VAE | {"block_out_channels": (32, 64, 128, 128)}
"""A quarter of FLUX.1's width."""
HEADS = {
    "miniature": ((16, 32, 64, 96), (4, 8, 16, 32, 64, 96)),
    "middle": ((16, 32, 64, 128), (4, 8, 16, 32, 64, 128)),
}
"""Heads a quarter as wide as the published ones, for patches below and from ``DEEP_HEAD_FROM_PATCH``."""


def patch_of(size_px: int) -> int:
    """Return the patch of the pixel model for a size: never more tokens than at 1024 px."""
    return 16 * max(1, size_px // TOKEN_GRID_PX)


def head_of(name: str, size_px: int) -> tuple[int, tuple[int, ...], int]:
    """Return the patch of a size, the head's channels, and the trunk's width."""
    patch = patch_of(size_px)
    shallow, deep = HEADS.get(name, (HEAD_CHANNELS["1k"], HEAD_CHANNELS["4k"]))
    halvings = largest_power_of_two(patch).bit_length() - 1  # patch 160: five levels, without the finest
    return patch, deep[-halvings:] if patch >= DEEP_HEAD_FROM_PATCH else shallow, configs_of(name)[0]["dim"]


@cache
def configs_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configurations of a source's transformer and VAE."""
    if name == "miniature":
        read = (json.loads((SHIPPED / part / "config.json").read_text()) for part in ("transformer", "vae"))
        transformer, vae = ({key: value for key, value in each.items() if not key.startswith("_")} for each in read)
        return transformer, vae
    release = "Z-Image" if name == "middle" else name
    found = next((each for each in releases() if each.release == release and each.family == FAMILY), None)
    if found is None:
        raise SystemExit(f"no release {name!r} of the family {FAMILY}; see `l2p families`")
    return (full_config(found) | MIDDLE, MIDDLE_VAE) if name == "middle" else (full_config(found), VAE)


def build(kind: str, name: str, size_px: int) -> ZImagePipeline:
    """Return a stock pipeline with random weights, without text encoder: bfloat16 on a GPU, float32 on CPUs.

    Args:
        kind: "source" or "pixel".
        name: "miniature", "middle", or a published source of the family.
        size_px: Of its pictures; the pixel model of each patch has another input projection and head.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    config, vae_config = configs_of(name)
    if kind == "source":
        with torch.device("meta"):
            transformer = load_family(FAMILY).transformer_class(**config)
        vae: Any = AutoencoderKL(**vae_config)
    else:
        patch, channels, _ = head_of(name, size_px)
        transformer = load_pixel_class(FAMILY).from_config_of(config, pixel_patch_size=patch, head_channels=channels)
        vae = PixelVAE(transformer.codec_factor)
    transformer = transformer.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.to(device, dtype),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer.eval(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def now() -> float:
    """Return the clock once all queued work is done; with one thread the processor's, which other jobs do not delay."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def device_name() -> str:
    """Return the name of the GPU, else of the processor as Linux tells it, else its kind."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
