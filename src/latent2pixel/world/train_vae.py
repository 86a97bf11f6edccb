"""Training of the miniature source's VAE on freshly rendered scenes.

Shape letters: B batch, C channels, H height, W width.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from tqdm.auto import tqdm

from latent2pixel.world.levels import Level
from latent2pixel.world.optimizers import build_optimizers, flatten_kernels, restore_kernels
from latent2pixel.world.render_ahead import render_ahead, render_all
from latent2pixel.world.scenes import Scene, draw_scene
from latent2pixel.world.source_model import RESOLUTION_PX, build_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

NUM_MEASURED = 300
"""Scenes for the latent statistics and the closing report."""


@dataclass(frozen=True, kw_only=True)
class VAETraining:
    """Settings of one VAE training."""

    steps: int = 1200
    """Optimiser steps."""
    batch_size: int = 16
    """Scenes a step."""
    learning_rate: float = 4e-3
    """Peak of Muon's rate; 50 steps of warm-up, then cosine to 1 percent."""
    kl_weight: float = 1e-3
    """Weight of the mean KL per latent against pixel errors in [-1, 1]: caps PSNR near 39 dB, smooths the latents."""
    seed: int = 0
    """Seed of weights, scenes and latent noise."""


def images_from_scenes(scenes: list[Scene], resolution_px: int = RESOLUTION_PX) -> Tensor:
    """Render scenes as a batch of pixels in [-1, 1], float32, shape (B, 3, H, W)."""
    return images_from_bytes(render_all(scenes, resolution_px))


def images_from_bytes(bytes_BHWC: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Return rendered pictures as pixels in [-1, 1], float32, shape (B, 3, H, W), on a device."""
    return torch.from_numpy(bytes_BHWC).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(
    level: Level,
    settings: VAETraining,
    *,
    device: torch.device | str = "cpu",
    num_processes: int = 0,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> "AutoencoderKL":
    """Train a VAE from nothing.

    Args:
        level: Level whose scenes it learns.
        settings: Steps, rates and seed.
        device: Where it is trained and returned.
        num_processes: Processes that render the scenes.
        report: Called every 50 steps with the step and {"loss", "psnr_db", "kl"}.

    Returns:
        The VAE in evaluation mode, its ``scaling_factor`` and ``shift_factor`` set so that latents have mean 0, std 1.
    """
    torch.manual_seed(settings.seed)
    generator = random.Random(settings.seed)
    vae = build_vae().train().to(device)
    flatten_kernels(vae)
    optimizers = build_optimizers(list(vae.named_parameters()), learning_rate=settings.learning_rate)
    batches = (
        [draw_scene(level, "train", generator=generator) for _ in range(settings.batch_size)]
        for _ in range(settings.steps)
    )
    rendered = render_ahead(batches, RESOLUTION_PX, num_processes=num_processes)
    for step, bytes_BHWC in enumerate(bar := tqdm(rendered, total=settings.steps, desc="vae", unit="step")):
        warmup, decay = min(1, (step + 1) / 50), 0.5 + 0.5 * math.cos(math.pi * step / settings.steps)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak_lr"] * warmup * max(decay, 0.01)
        loss, figures = _vae_loss(vae, images_from_bytes(bytes_BHWC, device), kl_weight=settings.kl_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if report and (step + 1) % 50 == 0:
            bar.set_postfix({key: f"{value:.3f}" for key, value in figures.items()})
            report(step + 1, figures)
    restore_kernels(vae)
    return _normalise_latents(vae.eval(), level)


def _vae_loss(vae: "AutoencoderKL", images_BCHW: Tensor, *, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Return L1 + 2 MSE + weighted KL, and its parts as numbers."""
    with torch.autocast(images_BCHW.device.type, torch.bfloat16):
        posterior = vae.encode(images_BCHW).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        decoded_BCHW = vae.decode(latents).sample.float()
    mse = F.mse_loss(decoded_BCHW, images_BCHW)
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    loss = F.l1_loss(decoded_BCHW, images_BCHW) + 2 * mse + kl_weight * kl
    return loss, {"loss": loss.item(), "psnr_db": 10 * math.log10(4 / mse.item()), "kl": kl.item()}


@torch.no_grad()
def _normalise_latents(vae: "AutoencoderKL", level: Level) -> "AutoencoderKL":
    generator = random.Random(1)
    images = images_from_scenes([draw_scene(level, "train", generator=generator) for _ in range(NUM_MEASURED)])
    latents = torch.cat([vae.encode(batch.to(vae.device)).latent_dist.mean for batch in images.split(50)])
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    return vae
