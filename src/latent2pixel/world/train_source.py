"""Training of the miniature source's transformer and text encoder on cached latents.

This loop makes a latent model from nothing; the transfer to pixels has its own, ``train/trainer.py``.

Shape letters: B batch, C channels, H height, W width, L tokens of a caption, D width of the text encoder.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from tqdm.auto import tqdm

from latent2pixel.flow import add_noise, sample_sigmas, velocity
from latent2pixel.world.captions import heldout_captions
from latent2pixel.world.latents import LatentScenes
from latent2pixel.world.levels import Level
from latent2pixel.world.optimizers import build_optimizers
from latent2pixel.world.score import Score, score_images
from latent2pixel.world.source_model import NOISE_SHIFT, RESOLUTION_PX

if TYPE_CHECKING:
    from diffusers import ZImagePipeline

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.jsonl"
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class SourceTraining:
    """Settings of one training of the miniature source."""

    dim: int = 192
    """Width of the transformer."""
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
    """Seed of batches, noise and dropout."""


class SourceTrainer:
    """Trains the transformer and the text encoder of a pipeline in bfloat16 with float32 master weights.

    Args:
        pipe: Stock pipeline of untrained or trained parts; trained in place.
        scenes: Latents and captions.
        level: Level of the world, for the scores on the way.
        folder: Where the checkpoint and the curve are kept; a checkpoint found there is resumed.
        settings: Steps, rates and seed.
    """

    def __init__(
        self, pipe: "ZImagePipeline", scenes: LatentScenes, *, level: Level, folder: Path, settings: SourceTraining
    ) -> None:
        self.pipe, self.scenes, self.level, self.folder, self.settings = pipe, scenes, level, folder, settings
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
        self.tokens = _tokenize(pipe, ["", *scenes.captions])
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()

    def train(self) -> None:
        """Train up to ``settings.steps``, then leave the averaged weights in the pipeline."""
        settings, losses = self.settings, []
        # Plain matrix products: with the fused CPU kernel a step takes 1.3 times as long (benchmarks/source_step.py).
        self.pipe.transformer.set_attention_backend("_native_math")
        if settings.compile:
            self.pipe.transformer.compile_repeated_blocks()
        started = time.monotonic() - self.seconds
        bar = tqdm(initial=self.step, total=settings.steps, desc="source", unit="step")
        while self.step < settings.steps:
            losses.append(self._train_step())
            self.step += 1
            self.seconds = time.monotonic() - started
            bar.update()
            if self.step % settings.report_every == 0:
                self._record(loss=float(np.mean(losses)))
                bar.set_postfix(loss=f"{np.mean(losses):.4f}")
                losses = []
            if self.step % settings.checkpoint_every == 0 or self.step == settings.steps:
                self._save()
            if self.step % settings.score_every == 0 or self.step == settings.steps:
                self._record(score=self._score().as_record())
                started = time.monotonic() - self.seconds
        self._show(self.averages)

    def _train_step(self) -> float:
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
        return loss.item()

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
        captions = self._encode(torch.where(dropped, 0, chosen + 1))
        sigma_B = sample_sigmas(len(chosen), shift=NOISE_SHIFT, generator=self.generator)
        noise_BCHW = torch.randn(latents_BCHW.shape, generator=self.generator)
        noisy_BCHW = add_noise(latents_BCHW, noise_BCHW, sigma_B)
        samples = list(noisy_BCHW.to(torch.bfloat16).unsqueeze(2))
        # Z-Image's clock runs from 0 (noise) to 1 (clean), and its output is minus the velocity.
        output = self.pipe.transformer(samples, 1 - sigma_B, captions, return_dict=False)[0]
        return F.mse_loss(-torch.stack(output).squeeze(2).float(), velocity(latents_BCHW, noise_BCHW))

    def _encode(self, rows: Tensor) -> list[Tensor]:
        """Return the caption embeddings of token rows as the pipeline makes them: a list of (L, D)."""
        mask = self.tokens["attention_mask"][rows]
        length = int(mask.sum(1).max())
        encoded = self.pipe.text_encoder(
            input_ids=self.tokens["input_ids"][rows, :length],
            attention_mask=mask[:, :length],
            output_hidden_states=True,
        ).hidden_states[-2]
        return [embedding[: int(count)] for embedding, count in zip(encoded, mask.sum(1), strict=True)]

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
        state = torch.load(self.folder / CHECKPOINT, weights_only=True)
        for name, master in self.masters.items():
            master.copy_(state["masters"][name])
            self.averages[name].copy_(state["averages"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._show(self.masters)


def score_source(
    pipe: "ZImagePipeline",
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
    pipe.set_progress_bar_config(disable=True)
    images = []
    for start in tqdm(range(0, len(wanted), batch_size), desc="score", unit="batch", leave=False):
        batch = wanted[start : start + batch_size]
        images += pipe(
            prompt=[caption.text for caption in batch],
            height=RESOLUTION_PX,
            width=RESOLUTION_PX,
            num_inference_steps=num_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            max_sequence_length=64,
        ).images
    return score_images([np.asarray(image) for image in images], wanted)


def _tokenize(pipe: "ZImagePipeline", texts: list[str]) -> dict[str, Tensor]:
    """Return token ids and masks of the chat-wrapped captions, as ``ZImagePipeline.encode_prompt`` makes them."""
    wrapped = [
        pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        for text in texts
    ]
    encoded = pipe.tokenizer(wrapped, padding=True, return_tensors="pt")
    return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
