"""Training of a miniature source's transformer and text encoder on cached latents.

This loop makes a latent model from nothing; the transfer to pixels has its own, ``train/trainer.py``.

Shape letters: B batch, N captions, C channels, H height, W width, L tokens of a caption.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from tqdm.auto import tqdm

from latent2pixel.errors import StateError
from latent2pixel.families import family_of
from latent2pixel.families.base import Encoded
from latent2pixel.flow import add_noise, velocity
from latent2pixel.world.captions import heldout_captions
from latent2pixel.world.latents import LatentScenes
from latent2pixel.world.levels import Level
from latent2pixel.world.miniature import MiniatureName, load_miniature
from latent2pixel.world.optimizers import build_optimizers
from latent2pixel.world.score import Score, score_images
from latent2pixel.world.source_model import RESOLUTION_PX

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.jsonl"
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class SourceTraining:
    """Settings of one training of a miniature source."""

    family: MiniatureName = "z_image"
    """Family of the source: the shipped one's, or another."""
    dim: int = 192
    """Width of the transformer, a multiple of 32."""
    num_layers: int = 6
    """Blocks of its main stack."""
    steps: int = 12_000
    """Optimiser steps in all; a run that is started again goes on to this number."""
    batch_size: int = 64
    """Scenes a step."""
    learning_rate: float = 3e-3
    """Peak of Muon's rate: 100 steps of warm-up, constant, then linear to zero."""
    cooldown_steps: int = 3_000
    """Last steps, over which the rate falls to zero."""
    shift: float | None = None
    """Noise shift of the drawn noise levels; none takes the scheduler's. What a caption says is decided where there is
    much noise, and a scheduler whose shift grows with the image rarely goes there at 16 tokens."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are the ones that are saved."""
    report_every: int = 50
    """Steps between two lines of the loss curve."""
    checkpoint_every: int = 250
    """Steps between two checkpoints."""
    score_every: int = 1_000
    """Steps between two scores on 60 held-out captions."""
    guidance_scale: float = 3.0
    """Guidance of those scores."""
    compile: bool = True
    """Compile the blocks: 1.45 times as fast on two cores, needs a C compiler."""
    seed: int = 0
    """Seed of the VAE, of weights, batches, noise and dropout."""


class SourceTrainer:
    """Trains the transformer and the text encoder of a pipeline in bfloat16 with float32 master weights.

    Everything random is drawn on the CPU, so that a GPU sees the same batches and noise.

    Args:
        pipe: Stock pipeline of untrained or trained parts; trained in place, on the device where it is.
        scenes: Latents and captions.
        level: Level of the world, for the scores on the way.
        folder: Where the checkpoint and the curve are kept; a checkpoint found there is resumed.
        settings: Steps, rates and seed.

    Raises:
        StateError: The folder holds the checkpoint of another model.
    """

    def __init__(
        self, pipe: Any, scenes: LatentScenes, *, level: Level, folder: Path, settings: SourceTraining
    ) -> None:
        self.pipe, self.scenes, self.level, self.folder, self.settings = pipe, scenes, level, folder, settings
        self.miniature, self.family = load_miniature(settings.family), family_of(pipe.transformer)
        self.device = pipe.transformer.device
        self.modules: dict[str, nn.Module] = {"transformer": pipe.transformer, "text_encoder": pipe.text_encoder}
        named = [(f"{key}.{name}", p) for key, part in self.modules.items() for name, p in part.named_parameters()]
        self.masters = {name: nn.Parameter(p.detach().float().clone()) for name, p in named}
        self.averages = {name: p.detach().clone() for name, p in self.masters.items()}
        pipe.to(dtype=torch.bfloat16)
        self.working = {name: p for name, (_, p) in zip(self.masters, self._named_parameters(), strict=True)}
        self.optimizers = build_optimizers(list(self.masters.items()), learning_rate=settings.learning_rate)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step = 0
        self.seconds = 0.0
        # Each sentence once: the chat template takes longer than anything else that is done to a caption.
        texts = ["", *dict.fromkeys(scenes.captions)]
        self.ids_NL, self.mask_NL = self.miniature.tokenize(pipe, texts)
        rows = {text: row for row, text in enumerate(texts)}
        self.caption_rows = torch.tensor([rows[text] for text in scenes.captions])
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()

    def train(self) -> None:
        """Train up to ``settings.steps``, then leave the averaged weights in the pipeline."""
        settings = self.settings
        losses: list[Tensor] = []
        if self.device.type == "cpu":
            # Plain matrix products: with the fused CPU kernel a step takes 1.3 times as long
            # (benchmarks/source_step.py).
            self.pipe.transformer.set_attention_backend("_native_math")
        if settings.compile:
            self._compile_blocks()
        started = time.monotonic() - self.seconds
        bar = tqdm(initial=self.step, total=settings.steps, desc="source", unit="step")
        while self.step < settings.steps:
            losses.append(self._train_step())
            self.step += 1
            self.seconds = time.monotonic() - started
            bar.update()
            if self.step % settings.report_every == 0:
                loss, losses = torch.stack(losses).mean().item(), []
                self._record(loss=loss)
                bar.set_postfix(loss=f"{loss:.4f}")
            if self.step % settings.checkpoint_every == 0 or self.step == settings.steps:
                self._save()
            if self.step % settings.score_every == 0 or self.step == settings.steps:
                self._record(score=self._score().as_record())
                started = time.monotonic() - self.seconds
        self._show(self.averages)

    def _compile_blocks(self) -> None:
        """Compile every block of the main stack's classes; diffusers does not name those of all families."""
        transformer = self.pipe.transformer
        classes = {type(block) for blocks in self.family.image_blocks for block in getattr(transformer, blocks)}
        for module in transformer.modules():
            if type(module) in classes:
                module.compile()

    def _train_step(self) -> Tensor:
        settings = self.settings
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak_lr"] * self._rate()
        loss = self._loss()
        loss.backward()
        for name, master in self.masters.items():
            gradient = self.working[name].grad
            master.grad = None if gradient is None else gradient.float()
            self.working[name].grad = None
        torch.nn.utils.clip_grad_norm_(self.masters.values(), MAX_GRADIENT_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(settings.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averages.values()), list(self.masters.values()), 1 - decay)
            torch._foreach_copy_(list(self.working.values()), list(self.masters.values()))
        return loss.detach()

    def _rate(self) -> float:
        """Return the share of the peak learning rate at this step."""
        left = self.settings.steps - self.step
        return min(1.0, (self.step + 1) / 100, left / max(self.settings.cooldown_steps, 1))

    def _loss(self) -> Tensor:
        """Return the flow matching loss of one random batch.

        Source:
            Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3; uniform noise levels moved by the
            scheduler's shift, so that training and sampling see the same ones.
        """
        chosen = torch.randint(len(self.scenes.captions), (self.settings.batch_size,), generator=self.generator)
        latents_BCHW = self.scenes.latents[chosen].float()
        dropped = torch.rand(len(chosen), generator=self.generator) < self.settings.caption_dropout
        sigma_B = self.family.sample_sigmas(
            len(chosen),
            scheduler=self.pipe.scheduler,
            num_tokens=latents_BCHW[0, 0].numel() // self.family.latent_patch**2,
            shift=self.settings.shift,
            generator=self.generator,
        )
        noise_BCHW = torch.randn(latents_BCHW.shape, generator=self.generator)
        latents_BCHW, noise_BCHW, sigma_B = (each.to(self.device) for each in (latents_BCHW, noise_BCHW, sigma_B))
        captions = self.encode(torch.where(dropped, 0, self.caption_rows[chosen]))
        predicted_BCHW = self.predict(add_noise(latents_BCHW, noise_BCHW, sigma_B), sigma_B, captions)
        return F.mse_loss(predicted_BCHW, velocity(latents_BCHW, noise_BCHW))

    def predict(self, noisy_BCHW: Tensor, sigma_B: Tensor, captions: Sequence[Encoded]) -> Tensor:
        """Return the velocity that the transformer predicts, (B, C, H, W), float32.

        Args:
            noisy_BCHW: Latents at noise level sigma, on the device.
            sigma_B: Noise level in [0, 1], 1 is noise.
            captions: One for each latent, as ``encode`` returns them.
        """
        family, transformer = self.family, self.pipe.transformer
        rows, columns = (size // family.latent_patch for size in noisy_BCHW.shape[2:])
        call = family.collate(transformer, captions, (rows, columns))
        sample = family.sample(noisy_BCHW.to(transformer.dtype), call)
        clock_B = family.told(sigma_B, rows * columns)
        output = transformer(
            **{family.sample_argument: sample, family.timestep_argument: clock_B}, **call, return_dict=False
        )[0]
        return family.sign * family.map_of({**call, family.sample_argument: output}).float()

    def encode(self, rows: Tensor) -> list[Encoded]:
        """Return captions as the family's pipeline encodes them, with gradients.

        Args:
            rows: Of the token table: 0 is the empty caption, others as in ``caption_rows``.
        """
        mask_BL = self.mask_NL[rows]
        lengths = mask_BL.sum(1).tolist()
        ids_BL, mask_BL = (each[:, : max(lengths)].to(self.device) for each in (self.ids_NL[rows], mask_BL))
        return self.miniature.encode(self.pipe, ids_BL, mask_BL, lengths)

    @torch.no_grad()
    def _score(self) -> Score:
        self._show(self.averages)
        # Compiled for training alone: the sampler's other batch size would cost minutes of recompilation.
        with torch.compiler.set_stance("force_eager"):
            score = score_source(
                self.pipe,
                self.level,
                num_captions=60,
                images_per_caption=1,
                seed=1,
                guidance_scale=self.settings.guidance_scale,
            )
        self._show(self.masters)
        return score

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for key, part in self.modules.items():
            for name, parameter in part.named_parameters():
                yield f"{key}.{name}", parameter

    @torch.no_grad()
    def _show(self, weights: dict[str, Any]) -> None:
        """Put weights into the pipeline's modules."""
        torch._foreach_copy_(list(self.working.values()), list(weights.values()))

    def _record(self, **figures: Any) -> None:
        line = {"step": self.step, "samples": self.step * self.settings.batch_size, "seconds": round(self.seconds, 1)}
        with (self.folder / CURVE).open("a") as file:
            file.write(json.dumps(line | figures) + "\n")

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "masters": {name: p.detach() for name, p in self.masters.items()},
            "averages": self.averages,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
        }
        torch.save(state, self.folder / (CHECKPOINT + ".part"))
        (self.folder / (CHECKPOINT + ".part")).replace(self.folder / CHECKPOINT)

    @torch.no_grad()
    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, weights_only=True, map_location="cpu")
        found, expected = (
            {name: tuple(each.shape) for name, each in weights.items()} for weights in (state["masters"], self.masters)
        )
        if found != expected:
            raise StateError(
                "The checkpoint is of another model than the settings ask for",
                found=f"{len(found)} weights in {self.folder / CHECKPOINT}, "
                f"{len(found.items() & expected.items())} of them as they should be",
                expected=f"the {len(expected)} weights of {self.settings.family} with width {self.settings.dim} "
                f"and {self.settings.num_layers} blocks",
                fix="Call it with the settings of the first call, or with another folder.",
            )
        for name, master in self.masters.items():
            master.copy_(state["masters"][name])
            self.averages[name].copy_(state["averages"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._show(self.masters)


def score_source(
    pipe: Any,
    level: Level,
    *,
    num_captions: int,
    images_per_caption: int,
    seed: int,
    guidance_scale: float,
    num_steps: int = 16,
    batch_size: int = 60,
) -> Score:
    """Score a pipeline on held-out captions.

    Args:
        pipe: Stock pipeline, latent or pixel.
        level: Level of the captions.
        num_captions: Held-out captions, split evenly over the six tasks.
        images_per_caption: Pictures of each.
        seed: Seed of the captions and of the noise.
        guidance_scale: The pipeline's guidance.
        num_steps: Euler steps.
        batch_size: Pictures at a time.
    """
    wanted = heldout_captions(level, num_captions, seed=seed) * images_per_caption
    generator = torch.Generator().manual_seed(seed)
    family = family_of(pipe.transformer)
    pipe.set_progress_bar_config(disable=True)
    images = []
    for start in tqdm(range(0, len(wanted), batch_size), desc="score", unit="batch", leave=False):
        batch = wanted[start : start + batch_size]
        images += family.images(
            pipe,
            prompt=[caption.text for caption in batch],
            height=RESOLUTION_PX,
            width=RESOLUTION_PX,
            num_inference_steps=num_steps,
            generator=generator,
            **family.call_options(pipe, guidance_scale=guidance_scale, num_prompts=len(batch)),
        )
    return score_images([np.asarray(image) for image in images], wanted)
