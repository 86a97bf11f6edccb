"""The training loop of the transfer: the only one.

Shape letters: B batch, C channels, H height, W width.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers import DiffusionPipeline
from diffusers.training_utils import EMAModel, cast_training_params
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from latent2pixel.errors import ConfigError, StateError
from latent2pixel.families import family_of
from latent2pixel.io.images import bytes_of
from latent2pixel.model import freezing
from latent2pixel.model.predict import unwrapped
from latent2pixel.model.trunk import is_under
from latent2pixel.train.checkpoint import Checkpoint, load_newest_checkpoint, save_checkpoint
from latent2pixel.train.config import TrainConfig
from latent2pixel.train.for_model import is_checkpointed, rate_factor_of, trained_names
from latent2pixel.train.perceptual import LOADERS, Perceptual
from latent2pixel.train.step import (
    Latents,
    Teacher,
    batch_indices,
    distillation_loss,
    draw,
    learning_rate_at,
    step_generator,
    transfer_loss,
)

logger = logging.getLogger(__name__)

EncodedPrompts = Callable[[str], dict[str, Tensor]]
"""From a prompt to its cached embeddings, as the family's ``encode`` made them."""
Validate = Callable[[int, DiffusionPipeline], Tensor | None]
"""Called with the step and the pipeline, which holds the averaged weights if the run keeps any; returns a picture
(3, H, W) in [-1, 1] for tensorboard, or none."""


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a finished run did."""

    steps: int
    seconds: float
    """Training time without validation, over all starts of the run."""
    losses: list[tuple[int, float]]
    """Step and loss of every step."""
    share: freezing.TrainableShare


def train(
    pipe: DiffusionPipeline,
    dataset: Dataset,
    encoded: EncodedPrompts,
    *,
    out: Path,
    config: TrainConfig,
    latents: Latents | None = None,
    validate: Validate | None = None,
) -> TrainReport:
    """Train the shallow parts of a converted pipeline, or go on where a stopped run left off.

    Args:
        pipe: Converted pipeline; its transformer is trained in place.
        dataset: Items {"image": (3, H, W) in [-1, 1], "prompt": str, "seed": int}, and "told", what the family's
            ``encode_images`` returns of the image, if it reads any.
        encoded: Embeddings of every prompt of the data and of the family's empty prompt.
        out: Run folder: checkpoints, ``losses.jsonl``, tensorboard logs.
        config: The run's settings.
        latents: Needed by the objective "source" only.
        validate: Called every ``validate_every`` steps and at the end.

    Raises:
        ConfigError: Objective and model do not fit together, or the perceptual model is no distance of images.
        CheckpointError: A checkpoint is damaged or of another run, or the perceptual model is damaged.
        StateError: The run folder is already beyond ``config.steps``.
    """
    run = _Run(pipe, dataset, encoded, out=out, config=config, latents=latents)
    run.resume()
    run.loop(validate)
    run.show_average()
    return TrainReport(steps=run.step, seconds=run.seconds, losses=run.losses(), share=run.share)


class _Run:
    """State of one training run."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        dataset: Any,
        encoded: EncodedPrompts,
        *,
        out: Path,
        config: TrainConfig,
        latents: Latents | None,
    ) -> None:
        self.pipe, self.dataset, self.encoded, self.out, self.config = pipe, dataset, encoded, out, config
        self.family = family_of(pipe.transformer)
        self.family.sample_sigmas(
            1, scheduler=pipe.scheduler, num_tokens=1, shift=config.shift
        )  # refused now, if at all
        names = trained_names(pipe.transformer, config)
        freezing.freeze_all_but(pipe.transformer, names)
        self.share = freezing.describe(pipe.transformer, names)
        self.rate_factor = rate_factor_of(pipe.transformer, config)
        # Before resuming: the teacher is the model as it was converted.
        self.teacher = None
        if config.objective == "source":
            if latents is None:
                raise TypeError("the objective 'source' needs the function latents")
            self.teacher = Teacher(model=freezing.frozen_copy(pipe.transformer), latents=latents)
        self.dtype = pipe.transformer.dtype
        _require_precision(self.dtype, config.precision)
        cast_training_params(pipe.transformer)
        if config.attention_backend is not None:
            pipe.transformer.set_attention_backend(config.attention_backend)
        if is_checkpointed(pipe.transformer, config):
            pipe.transformer.enable_gradient_checkpointing()
        # Later sessions of a run log into the same folder; accelerate keeps its logs below it.
        self.accelerator = Accelerator(
            # accelerate keeps its precision for the whole process; runs differ in theirs, so ``_loss`` casts instead.
            mixed_precision="no",
            log_with="tensorboard",
            project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "logs")),
        )
        self.trainable = {name: p for name, p in pipe.transformer.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            self._rate_groups(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        self.model, self.optimizer = self.accelerator.prepare(pipe.transformer, optimizer)
        if self.teacher is not None:
            self.teacher.model.to(self.accelerator.device)
        self.perceptual = None
        if config.perceptual_model is not None:
            self.perceptual = Perceptual(
                distance=LOADERS[config.perceptual](Path(config.perceptual_model), device=self.accelerator.device),
                weight=config.perceptual_weight,
                max_sigma=config.perceptual_max_sigma,
            )
        self.average = EMAModel(self.trainable.values(), decay=config.ema_decay) if config.ema_decay else None
        self.step, self.seconds = 0, 0.0

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one, and forget the losses behind it."""
        shapes = {name: parameter.shape for name, parameter in self.trainable.items()}
        saved = load_newest_checkpoint(self.out / "checkpoints", shapes)
        if saved is not None:
            if saved.step > self.config.steps:
                raise StateError(
                    "the run has already gone further than asked",
                    found=f"a checkpoint of step {saved.step} in {self.out}",
                    expected=f"at most step {self.config.steps}",
                    fix="ask for more steps, or choose another output folder",
                )
            with torch.no_grad():
                for name, parameter in self.trainable.items():
                    parameter.copy_(saved.trainable[name])
            self.optimizer.load_state_dict(saved.optimizer)
            self.step, self.seconds = saved.step, saved.seconds
            if self.average is not None and saved.average is not None:
                self.average.shadow_params = [saved.average[name].to(p.device) for name, p in self.trainable.items()]
                self.average.optimization_step = saved.step
            logger.info("going on from step %d", self.step)
        if self.accelerator.is_main_process:
            kept = [line for line in self._loss_lines() if json.loads(line)["step"] <= self.step]
            self._loss_path.parent.mkdir(parents=True, exist_ok=True)
            self._loss_path.write_text("".join(line + "\n" for line in kept))

    def loop(self, validate: Validate | None) -> None:
        """Train up to the last step."""
        config = self.config
        self.accelerator.init_trackers("tensorboard")
        self.model.train()
        bar = tqdm(
            initial=self.step,
            total=config.steps,
            desc="train",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        started = time.monotonic() - self.seconds
        while self.step < config.steps:
            loss = self._train_step()
            self.step += 1
            self.seconds = time.monotonic() - started
            self._log(loss, bar)
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._save()
            due = config.validate_every and self.step % config.validate_every == 0
            if validate is not None and (due or self.step == config.steps) and self.accelerator.is_main_process:
                self._validate(validate)
                started = time.monotonic() - self.seconds
        bar.close()
        self.accelerator.end_training()

    def show_average(self) -> None:
        """Leave the averaged weights in the pipeline, if the run keeps any, all in the dtype that it came with."""
        if self.average is not None:
            self.average.copy_to(self.trainable.values())
        trained = unwrapped(self.model).to(self.dtype).eval()
        for part in ("transformer", *self.family.twins):
            setattr(self.pipe, part, trained)

    def losses(self) -> list[tuple[int, float]]:
        """Return step and loss of every step of the run."""
        return [(line["step"], line["loss"]) for line in map(json.loads, self._loss_lines())]

    def _train_step(self) -> float:
        """Do one optimiser step and return the mean loss over all processes."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate_factor"] * learning_rate_at(
                self.step,
                peak=config.learning_rate,
                steps=config.steps,
                warmup_steps=config.warmup_steps,
                cooldown_steps=config.cooldown_steps,
            )
        loss = self._loss()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.trainable.values(), config.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(self.trainable.values())
        return self.accelerator.gather(loss.detach()).mean().item()

    def _rate_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups: new parts, and the source's own weights with their share of the rate."""
        new_parts = self.family.new_parts
        new = [p for name, p in self.trainable.items() if is_under(name, new_parts)]
        kept = [p for name, p in self.trainable.items() if not is_under(name, new_parts)]
        groups = [{"params": new, "rate_factor": 1.0}, {"params": kept, "rate_factor": self.rate_factor}]
        return [group for group in groups if group["params"]]

    def _loss(self) -> Tensor:
        """Return the loss of this process's share of the step's batch."""
        config, rank, world = self.config, self.accelerator.process_index, self.accelerator.num_processes
        indices = batch_indices(
            self.step, num_images=len(self.dataset), batch_size=config.batch_size, seed=config.seed
        )[rank::world]
        items = [self.dataset[index] for index in indices]
        images_BCHW = torch.stack([item["image"] for item in items])
        model = unwrapped(self.model)
        rows, columns = grid = model.grid_of(images_BCHW)
        drawn = draw(
            tuple(images_BCHW.shape),  # type: ignore[arg-type]
            sample_sigmas=partial(
                self.family.sample_sigmas,
                scheduler=self.pipe.scheduler,
                num_tokens=rows * columns,
                shift=config.shift,
            ),
            caption_dropout=config.caption_dropout,
            generator=step_generator(config.seed, self.step, rank),
            noise_seeds=[item["seed"] for item in items] if config.fixed_noise else None,
        ).to(self.accelerator.device)
        told = [
            self._told_of(item, dropped=dropped) for item, dropped in zip(items, drawn.dropped_B.tolist(), strict=True)
        ]
        conditioning = self.family.collate(model, told, grid)
        device = self.accelerator.device
        images_BCHW = images_BCHW.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            if self.teacher is not None:
                return distillation_loss(self.model, images_BCHW, drawn, conditioning, teacher=self.teacher)
            return transfer_loss(self.model, images_BCHW, drawn, conditioning, perceptual=self.perceptual)

    def _told_of(self, item: dict[str, Any], *, dropped: bool) -> dict[str, Tensor]:
        """Return what the model is told of an item: where the caption is dropped, nothing of the image either."""
        if dropped:
            return self.encoded(self.family.null_prompt)
        return self.encoded(item["prompt"]) | (item["told"] if self.family.reads_images else {})

    def _log(self, loss: float, bar: tqdm) -> None:
        if not self.accelerator.is_main_process:
            return
        with self._loss_path.open("a") as file:
            file.write(json.dumps({"step": self.step, "loss": loss}) + "\n")
        rate = self.optimizer.param_groups[0]["lr"]
        self.accelerator.log({"loss": loss, "learning_rate": rate}, step=self.step)
        bar.update()
        speed = self.step * self.config.batch_size / max(self.seconds, 1e-9)
        bar.set_postfix({"loss": f"{loss:.4f}", "images/s": f"{speed:.1f}"}, refresh=False)

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        average = None
        if self.average is not None:
            average = dict(zip(self.trainable, self.average.shadow_params, strict=True))
        save_checkpoint(
            self.out / "checkpoints",
            Checkpoint(
                step=self.step,
                seconds=self.seconds,
                trainable={name: parameter.detach() for name, parameter in self.trainable.items()},
                average=average,
                optimizer=self.optimizer.state_dict(),
            ),
            keep=self.config.keep_checkpoints,
        )

    def _validate(self, validate: Validate) -> None:
        """Show the pipeline with averaged weights to the caller, then put the trained ones back."""
        self.model.eval()
        if self.average is not None:
            self.average.store(self.trainable.values())
            self.average.copy_to(self.trainable.values())
        # Trainable weights are float32: beside a bfloat16 trunk only autocast brings the two together.
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.dtype != torch.float32):
            shown_CHW = validate(self.step, self.pipe)
        if shown_CHW is not None:
            board = self.accelerator.get_tracker("tensorboard")
            board.log_images({"validation": bytes_of(shown_CHW)[None]}, step=self.step, dataformats="NHWC")
        if self.average is not None:
            self.average.restore(self.trainable.values())
        self.model.train()

    @property
    def _loss_path(self) -> Path:
        return self.out / "losses.jsonl"

    def _loss_lines(self) -> list[str]:
        return self._loss_path.read_text().splitlines() if self._loss_path.exists() else []


def _require_precision(dtype: torch.dtype, precision: str) -> None:
    if precision == "no" and dtype != torch.float32:
        raise ConfigError(
            "The model is stored in a lower precision than the run asks for",
            found=f"{str(dtype).removeprefix('torch.')} weights, precision 'no'",
            expected="precision 'bf16', or float32 weights",
            fix="Leave precision at bf16, or convert the source with --dtype float32.",
        )
