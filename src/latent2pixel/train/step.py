"""One training step as pure functions: what is drawn, and what it costs.

Shape letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.flow import MIN_SIGMA, add_noise, target, velocity_from_clean, velocity_of
from latent2pixel.model.predict import predict, predict_tokens, unwrapped
from latent2pixel.seeds import step_generator
from latent2pixel.train.perceptual import Perceptual, perceptual_loss
from latent2pixel.train.weighting import Weighting


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The random part of one step."""

    noise_BCHW: Tensor
    """Standard normal, float32."""
    sigma_B: Tensor
    """Noise levels in [0, 1], float32."""
    dropped_B: Tensor
    """True where the caption is replaced by the empty one."""


SampleSigmas = Callable[..., Tensor]
"""From the size of a batch, and ``generator``, to its noise levels in [0, 1], float32, on the CPU."""
Latents = Callable[[Tensor], Tensor]
"""From images (B, 3, H, W) in [-1, 1] to the source's latent tokens (B, d, h, w)."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The source, as a lifted model holds it before it is trained."""

    model: Any
    """The pixel transformer as it was converted."""
    latents: Latents

    @torch.no_grad()
    def clean_tokens(self, images_BCHW: Tensor, drawn: Draw, conditioning: Mapping[str, Any]) -> Tensor:
        """Return what the source predicts of the images' noisy latents, (B, d, h, w), float32."""
        with torch.autocast(images_BCHW.device.type, enabled=False):
            latents_Bdhw = self.latents(images_BCHW).to(images_BCHW.device, torch.float32)
        return self.model.denoise_latents(latents_Bdhw, drawn.noise_BCHW, drawn.sigma_B, conditioning)


def draw(
    image_shape: tuple[int, int, int],
    *,
    sample_sigmas: SampleSigmas,
    caption_dropout: float,
    seed: int,
    step: int,
    places: Sequence[int],
    noise_seeds: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Draw:
    """Draw noise, noise levels and dropped captions for some images of a step's batch.

    Each image's are a function of seed, step and its place in the batch, so they do not depend on how processes and
    micro-batches share the batch.

    Args:
        image_shape: (C, H, W) of the images.
        sample_sigmas: Draws the noise levels.
        caption_dropout: Share of dropped captions.
        seed: Seed of the run.
        step: Step, counted from 0.
        places: Place of each image in the whole batch.
        noise_seeds: One seed an image, for noise that stays the same over the whole run.
        device: Where the noise is drawn, and where everything is returned. Other devices draw other noise.
    """
    sigmas, dropped, noises = [], [], []
    for index, place in enumerate(places):
        generator = step_generator(seed, step, place)
        sigmas.append(sample_sigmas(1, generator=generator))
        dropped.append(torch.rand(1, generator=generator) < caption_dropout)
        if noise_seeds is None:
            generator = step_generator(seed, step, place, 1, device=device)
        else:
            generator = torch.Generator(device).manual_seed(noise_seeds[index])
        noises.append(torch.randn(image_shape, generator=generator, device=device))
    return Draw(
        noise_BCHW=torch.stack(noises), sigma_B=torch.cat(sigmas).to(device), dropped_B=torch.cat(dropped).to(device)
    )


def transfer_loss(
    model: nn.Module,
    images_BCHW: Tensor,
    drawn: Draw,
    conditioning: Mapping[str, Any],
    *,
    weighting: Weighting | None = None,
    perceptual: Perceptual | None = None,
) -> Tensor:
    """Return the loss of the pixel model on a batch, in its source's own terms.

    Args:
        model: Pixel transformer of any family.
        images_BCHW: Source-made pixels in [-1, 1].
        drawn: Noise and noise levels, on the images' device.
        conditioning: The trunk's conditioning arguments, from ``Family.collate``.
        weighting: What noise levels and pixels count; none: all alike, as published.
        perceptual: Adds its weight times ``perceptual_loss``; not of the paper.

    Returns:
        Mean of ``(target - predicted) ** 2``, weighted, a float32 scalar; a flow's target is ``eps - x0``. With a lift,
        below ``MIN_SIGMA``, both velocities are ``(noisy - x0) / MIN_SIGMA``.

    Source:
        L2P (arXiv 2605.12013), section 3.3: the source's own objective, unweighted. With a lift: x-prediction with
        v-loss (Li & He 2025, arXiv 2511.13720, section 3).
    """
    sigma_B, objective = drawn.sigma_B, unwrapped(model).trunk.objective
    noisy_BCHW = add_noise(images_BCHW, drawn.noise_BCHW, sigma_B)
    predicted_BCHW = predict(model, noisy_BCHW, sigma_B, conditioning)
    if unwrapped(model).config["lift_config"]:
        # The model predicts the image and divides by max(sigma, MIN_SIGMA): so must its target, or it could not be met,
        # and by the same sigma its velocity leads back to its image.
        target_BCHW = velocity_from_clean(noisy_BCHW, images_BCHW, sigma_B)
        sigma_B = sigma_B.clamp_min(MIN_SIGMA)
    else:
        target_BCHW = target(images_BCHW, drawn.noise_BCHW, sigma_B, objective)
    if weighting is None:
        loss = F.mse_loss(predicted_BCHW, target_BCHW)
    else:
        loss = (weighting.of(sigma_B, objective) * (predicted_BCHW - target_BCHW).square()).mean()
    if perceptual is None:
        return loss
    return loss + perceptual.weight * perceptual_loss(
        velocity_of(predicted_BCHW, noisy_BCHW, sigma_B, objective),
        noisy_BCHW,
        images_BCHW,
        sigma_B,
        distance=perceptual.distance,
        max_sigma=perceptual.max_sigma,
    )


def distillation_loss(
    model: nn.Module, images_BCHW: Tensor, drawn: Draw, conditioning: Mapping[str, Any], *, teacher: Teacher
) -> Tensor:
    """Return how far a lifted model's clean latent tokens are from those that its source predicts.

    Both see the same image and the same noise: the model the noisy pixels, the source the noisy latents, free of what
    the lift misses of them. The source's prediction is a mean over all latents that fit, so the target varies less than
    the latents themselves.

    Args:
        model: Lifted pixel transformer.
        images_BCHW: Source-made pixels in [-1, 1].
        drawn: Noise and noise levels, on the images' device.
        conditioning: The trunk's conditioning arguments, from ``Family.collate``.
        teacher: The source behind the model.

    Returns:
        Mean of ``(predicted tokens - the source's) ** 2``, a float32 scalar.
    """
    target_Bdhw = teacher.clean_tokens(images_BCHW, drawn, conditioning)
    noisy_BCHW = add_noise(images_BCHW, drawn.noise_BCHW, drawn.sigma_B)
    return F.mse_loss(predict_tokens(model, noisy_BCHW, drawn.sigma_B, conditioning).float(), target_Bdhw.float())


def learning_rate_at(step: int, *, peak: float, steps: int, warmup_steps: int, cooldown_steps: int) -> float:
    """Return the learning rate of a step: linear up, constant, linear down to zero after the last step."""
    rise = (step + 1) / warmup_steps if warmup_steps else 1.0
    fall = (steps - step) / cooldown_steps if cooldown_steps else 1.0
    return peak * min(1.0, rise, fall)
