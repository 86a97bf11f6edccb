"""One training step as pure functions: what is drawn, and what it costs.

Shape letters: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.flow import MIN_SIGMA, add_noise, target, velocity_from_clean, velocity_of
from latent2pixel.model.predict import predict, predict_tokens, unwrapped
from latent2pixel.train.perceptual import Perceptual, perceptual_loss


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The random part of one step."""

    noise_BCHW: Tensor
    """Standard normal, float32."""
    sigma_B: Tensor
    """Noise levels in [0, 1], float32."""
    dropped_B: Tensor
    """True where the caption is replaced by the empty one."""

    def to(self, device: torch.device) -> "Draw":
        """Return the same draw on another device."""
        return Draw(
            noise_BCHW=self.noise_BCHW.to(device),
            sigma_B=self.sigma_B.to(device),
            dropped_B=self.dropped_B.to(device),
        )


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


def step_generator(seed: int, *counters: int) -> torch.Generator:
    """Return a generator that depends on the seed and on counters alone.

    Randomness that is a function of the step, not of what ran before it, needs no saving: a killed run that starts
    again draws the same numbers.

    Args:
        seed: Seed of the run.
        counters: Such as step and process rank; each below 2**20.
    """
    mixed = seed
    for counter in counters:
        # 6364136223846793005 is Knuth's multiplier for 64-bit linear congruential generators (MMIX).
        mixed = (mixed * 6364136223846793005 + counter + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


def draw(
    shape: tuple[int, int, int, int],
    *,
    sample_sigmas: SampleSigmas,
    caption_dropout: float,
    generator: torch.Generator,
    noise_seeds: list[int] | None = None,
) -> Draw:
    """Draw noise, noise levels and dropped captions for one batch.

    Args:
        shape: (B, C, H, W) of the images.
        sample_sigmas: Draws the noise levels.
        caption_dropout: Share of dropped captions.
        generator: CPU generator.
        noise_seeds: One seed an image, for noise that stays the same over the whole run.
    """
    sigma_B = sample_sigmas(shape[0], generator=generator)
    dropped_B = torch.rand(shape[0], generator=generator) < caption_dropout
    if noise_seeds is None:
        noise_BCHW = torch.randn(shape, generator=generator)
    else:
        noise_BCHW = torch.stack(
            [torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in noise_seeds]
        )
    return Draw(noise_BCHW=noise_BCHW, sigma_B=sigma_B, dropped_B=dropped_B)


def transfer_loss(
    model: nn.Module,
    images_BCHW: Tensor,
    drawn: Draw,
    conditioning: Mapping[str, Any],
    *,
    perceptual: Perceptual | None = None,
) -> Tensor:
    """Return the loss of the pixel model on a batch, in its source's own terms.

    Args:
        model: Pixel transformer of any family.
        images_BCHW: Source-made pixels in [-1, 1].
        drawn: Noise and noise levels, on the images' device.
        conditioning: The trunk's conditioning arguments, from ``Family.collate``.
        perceptual: Adds its weight times ``perceptual_loss``; not of the paper.

    Returns:
        Mean of ``(target - predicted) ** 2``, a float32 scalar; a flow's target is ``eps - x0``. With a lift, below
        ``MIN_SIGMA``, both velocities are ``(noisy - x0) / MIN_SIGMA``.

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
    loss = F.mse_loss(predicted_BCHW, target_BCHW)
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


def batch_indices(step: int, *, num_images: int, batch_size: int, seed: int) -> list[int]:
    """Return which images a step sees: every epoch is a fresh permutation, batches run on across its end.

    Args:
        step: Step, counted from 0.
        num_images: Size of the data.
        batch_size: Images a step, over all processes.
        seed: Seed of the run.
    """
    chosen: list[int] = []
    position = step * batch_size
    while len(chosen) < batch_size:
        epoch, offset = divmod(position + len(chosen), num_images)
        order = torch.randperm(num_images, generator=step_generator(seed, epoch))
        chosen += order[offset : offset + batch_size - len(chosen)].tolist()
    return chosen
