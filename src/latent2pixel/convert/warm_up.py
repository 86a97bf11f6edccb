"""Teaches stem and detailer head their closed tasks, encode and decode, before and without the trunk.

Shape letters: B batch, C channels, H and W image size in pixels, d values of a latent token, h and w the token grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from latent2pixel.convert.images import FitImages
from latent2pixel.flow import MIN_SIGMA, add_noise, sample_sigmas
from latent2pixel.io.images import as_floats
from latent2pixel.model.lift import NUM_LEVELS

CROP_PX = 256
"""Larger images are cropped to this: head and stem are convolutions, so memory and time do not grow with the image."""
RAMP_STEPS = 20
"""Steps over which the rate rises."""
COOLDOWN_SHARE = 0.4
"""Last share of the steps, over which the rate falls to zero."""
RIM_RATE = 0.3
"""AdamW's rate for rim and biases over Muon's for the hidden kernels; as in the source's training, not tuned here."""
HELD_OUT_SHARE = 0.1
"""Share of the images that only calibrate the lift."""
MIN_HELD_OUT = 16
"""At least so many of them."""


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How long and how fast the head learns without the trunk; the values are those of dev/LOG.md, 2026-11-25."""

    steps: int = 1000
    """Steps; 0 leaves stem and head silent, and calibrates only."""
    batch_size: int = 32
    """Images, or crops of them, a step."""
    learning_rate: float = 5e-3
    """Peak of Muon's rate."""
    token_noise: float = 0.1
    """Standard deviation of the noise on the latent tokens that the head decodes: the trunk's are not exact either."""


def warm_up(
    model: Any,
    images: FitImages,
    tokens: Sequence[Tensor],
    *,
    settings: WarmUp,
    shift: float,
    seed: int,
) -> None:
    """Train stem and head of a lifted pixel model on clean images and their latent tokens; the trunk never runs.

    The stem learns what the lift misses of the latent tokens. The head learns to decode clean tokens into the image.
    Both read the noisy image through the head's own down path. At the end the lift is calibrated at every noise level,
    on images that the stem has not seen; without steps too.

    Args:
        model: Lifted pixel transformer, just converted; its head and lift change in place.
        images: Images of the source.
        tokens: Their latent tokens, as ``initialise.encode_tokens`` returns them.
        settings: Steps and rates.
        shift: Noise shift of the pixel model, for half of the noise levels; the other half is uniform.
        seed: Seed of crops, noise and order.
    """
    # The trunk may lie elsewhere, in any dtype: it does not run.
    device, dtype = model.lift.basis_Dd.device, model.dtype
    generator = torch.Generator().manual_seed(seed)
    num_held_out = min(len(images.images) // 2, max(MIN_HELD_OUT, round(HELD_OUT_SHARE * len(images.images))))
    split = len(images.images) - num_held_out
    parts = nn.ModuleList([model.head, model.lift.stem]).float()
    _lay_out(parts, torch.channels_last)
    parts.requires_grad_(True)
    optimizer = _HiddenMuon(parts, rim=(model.head.enc[0], model.head.out_conv, model.lift.stem))
    draw = _Crops(images, tokens, patch=model.config["pixel_patch_size"], generator=generator)
    for step in tqdm(range(settings.steps), desc="head without trunk", unit="step"):
        clean_BCHW, tokens_Bdhw = draw(torch.randint(split, (settings.batch_size,), generator=generator).tolist())
        noise_Bdhw = settings.token_noise * torch.randn(tokens_Bdhw.shape, generator=generator)
        noisy_BCHW, sigma_B = _noisy(clean_BCHW, shift=shift, generator=generator)
        with torch.autocast(device.type, torch.bfloat16):
            loss = _loss(
                model,
                clean_BCHW.to(device),
                noisy_BCHW.to(device),
                sigma_B.to(device),
                tokens_Bdhw=tokens_Bdhw.to(device),
                token_noise_Bdhw=noise_Bdhw.to(device),
            )
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        rise, fall = (step + 1) / RAMP_STEPS, (settings.steps - step) / (COOLDOWN_SHARE * settings.steps)
        optimizer.step(settings.learning_rate * min(1.0, rise, fall))
    parts.requires_grad_(False)
    _calibrate(model, draw, range(split, len(images.images)), batch_size=settings.batch_size, generator=generator)
    _lay_out(parts, torch.contiguous_format)
    parts.to(dtype)
    for parameter in parts.parameters():
        parameter.requires_grad_(True)


def _lay_out(parts: nn.Module, memory_format: torch.memory_format) -> None:
    """Store all kernels in a format; in channels last a kernel is a matrix in memory, as Muon needs it."""
    for parameter in parts.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _loss(
    model: Any,
    clean_BCHW: Tensor,
    noisy_BCHW: Tensor,
    sigma_B: Tensor,
    *,
    tokens_Bdhw: Tensor,
    token_noise_Bdhw: Tensor,
) -> Tensor:
    """Return the image's squared error, weighted by 1 / sigma, plus that of the stem."""
    ends = model.lift_in(noisy_BCHW, sigma_B)
    image_BCHW = model.lift_out(noisy_BCHW, sigma_B, ends, tokens_Bdhw=tokens_Bdhw + token_noise_Bdhw)
    errors_B = (image_BCHW - clean_BCHW).square().mean((1, 2, 3))
    misfit_Bdhw = model.lift.misfit_of(clean_BCHW, tokens_Bdhw)
    return (errors_B / sigma_B.clamp(min=MIN_SIGMA)).mean() + functional.mse_loss(ends.correction_Bdhw, misfit_Bdhw)


def _noisy(clean_BCHW: Tensor, *, shift: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return noisy images and their levels: half of them uniform, half as the sampler visits them."""
    batch = len(clean_BCHW)
    uniform_B, shifted_B = (sample_sigmas(batch, shift=each, generator=generator) for each in (1.0, shift))
    sigma_B = torch.where(torch.arange(batch) % 2 == 0, uniform_B, shifted_B)
    return add_noise(clean_BCHW, torch.randn(clean_BCHW.shape, generator=generator), sigma_B), sigma_B


@torch.no_grad()
def _calibrate(
    model: Any, draw: Callable[[list[int]], tuple[Tensor, Tensor]], held_out: range, *, batch_size: int,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Compare lifted and true tokens of held-out images at every noise level, and write the tables of the lift."""
    device = model.lift.basis_Dd.device
    for level, sigma in enumerate(torch.linspace(0, 1, NUM_LEVELS)):
        seen, true = [], []
        for start in range(held_out.start, held_out.stop, batch_size):
            clean_BCHW, tokens_Bdhw = draw(list(range(start, min(start + batch_size, held_out.stop))))
            noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator)
            sigma_B = sigma.expand(len(clean_BCHW))
            noisy_BCHW, sigma_B = add_noise(clean_BCHW, noise_BCHW, sigma_B).to(device), sigma_B.to(device)
            with torch.autocast(device.type, torch.bfloat16):
                correction_Bdhw = model.lift_in(noisy_BCHW, sigma_B).correction_Bdhw
            lifted = model.lift.enter(noisy_BCHW, sigma_B, correction_Bdhw=correction_Bdhw, told=False)
            seen.append(lifted.tokens_Bdhw)
            true.append(tokens_Bdhw.to(device))
        lifted_sigma = lifted.sigma_B[0].item()  # one level, one sigma'
        model.lift.calibrate(level, torch.cat(seen), torch.cat(true), lifted_sigma=lifted_sigma)


class _Crops:
    """Draws images and their latent tokens by index, cropped alike at a whole token."""

    def __init__(self, images: FitImages, tokens: Sequence[Tensor], *, patch: int, generator: torch.Generator) -> None:
        self.images, self.tokens, self.patch, self.generator = images.images, tokens, patch, generator
        smallest = [min(part.shape[axis] for part in tokens) for axis in (1, 2)]
        self.rows, self.columns = (max(1, min(size, CROP_PX // patch)) for size in smallest)

    def __call__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return (B, 3, H, W) in [-1, 1] and (B, d, h, w), float32."""
        images, tokens = [], []
        for index in indices:
            _, rows, columns = self.tokens[index].shape
            top, left = (
                int(torch.randint(whole - part + 1, (), generator=self.generator))
                for whole, part in ((rows, self.rows), (columns, self.columns))
            )
            tokens.append(self.tokens[index][:, top : top + self.rows, left : left + self.columns])
            image_CHW, patch = self.images[index], self.patch
            crop_CHW = image_CHW[
                :, top * patch : (top + self.rows) * patch, left * patch : (left + self.columns) * patch
            ]
            images.append(as_floats(crop_CHW))  # of the crop alone: of 32 whole images of 1024 px it takes 0.2 s
        return torch.stack(images), torch.stack(tokens).float()


class _HiddenMuon:
    """Muon for hidden convolution kernels, seen as matrices; AdamW for the rest.

    On the miniature the decode's error at sigma .7 falls from .088 to .032 in 300 steps (45 s), with AdamW at best to
    .058 (28 s); one seed, rates hardly tuned (dev/LOG.md, 2026-11-25).

    Source:
        Jordan et al. 2024, "Muon": kernels are flattened to matrices; first and last layers are left to AdamW.
    """

    def __init__(self, parts: nn.Module, *, rim: tuple[nn.Module, ...]) -> None:
        at_rim = {id(parameter) for layer in rim for parameter in layer.parameters()}
        trained = list(parts.parameters())
        kernels = [p for p in trained if p.ndim == 4 and id(p) not in at_rim]
        chosen = {id(p) for p in kernels}
        # A kernel in channels-last format is a matrix in this order; torch's Muon takes matrices only.
        self.kernels = [(kernel, kernel.detach().permute(0, 2, 3, 1).view(len(kernel), -1)) for kernel in kernels]
        self.rest = [p for p in trained if id(p) not in chosen]
        self.muon = torch.optim.Muon(
            [matrix for _, matrix in self.kernels], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = torch.optim.AdamW(self.rest, betas=(0.9, 0.99), weight_decay=0.0)

    def step(self, learning_rate: float) -> None:
        """Update all parameters from their gradients, then clear these."""
        for kernel, matrix in self.kernels:
            matrix.grad = None if kernel.grad is None else kernel.grad.permute(0, 2, 3, 1).reshape(matrix.shape)
            kernel.grad = None
        for optimizer, rate in ((self.muon, learning_rate), (self.adamw, RIM_RATE * learning_rate)):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
