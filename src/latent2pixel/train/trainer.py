"""The training loop of the transfer: the only one.

Shape letters: B batch, C channels, H height, W width.
"""

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from latent2pixel.errors import ConfigError, Interrupted, StateError
from latent2pixel.families import family_of
from latent2pixel.model import freezing
from latent2pixel.model.predict import unwrapped
from latent2pixel.train.average import average_of
from latent2pixel.train.batch_loss import BatchLoss, EncodedPrompts, perceptual_of
from latent2pixel.train.batch_source import BatchSource
from latent2pixel.train.checkpoint import (
    Checkpoint,
    best_error,
    load_newest_checkpoint,
    mark_best,
    newest_folder,
    save_checkpoint,
)
from latent2pixel.train.config import TrainConfig
from latent2pixel.train.for_model import rate_groups, sigma_sampler
from latent2pixel.train.frozen_weights import keep_frozen_out_of_ddp
from latent2pixel.train.guard import Guard, StopRequest, stop_request
from latent2pixel.train.lora import cast_lora_inputs
from latent2pixel.train.optimizer import build_optimizer
from latent2pixel.train.prepare import prepare_model
from latent2pixel.train.processes import processes
from latent2pixel.train.step import Latents, learning_rate_at
from latent2pixel.train.tracking import PROJECT, finish_trackers, log_picture, require_trackers
from latent2pixel.train.validation import Validate, Validation

logger = logging.getLogger(__name__)


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
    batches: BatchSource,
    encoded: EncodedPrompts,
    *,
    out: Path,
    config: TrainConfig,
    latents: Latents | None = None,
    validate: Validate | None = None,
) -> TrainReport:
    """Train the shallow parts of a converted pipeline, or go on where a stopped run left off.

    Under torchrun or `accelerate launch` every process trains on its share of each batch (DDP); the losses are those of
    one process, but for the order of sums.

    Args:
        pipe: Converted pipeline; its transformer is trained in place, and keeps the LoRAs that it is given.
        batches: Items by step and place, as ``data.dataset.Item``: image, prompt and seed; "told", what the family's
            ``encode_images`` returns of the image, if it reads any; and "weight_1HW", what each pixel counts, if not
            all alike.
        encoded: Embeddings of every prompt of the data and of the family's empty prompt.
        out: Run folder: checkpoints, ``losses.jsonl``, tensorboard logs.
        config: The run's settings.
        latents: Needed by the objective "source" only.
        validate: Called by the first process every ``validate_every`` steps and at the end; by all of them where frozen
            blocks are in shards.

    Raises:
        DataError: More images are damaged than the run allows.
        ConfigError: Objective and model do not fit together, the batch does not divide among the processes, or the
            perceptual model is no distance of images.
        CheckpointError: A checkpoint is damaged or of another run, or the perceptual model is damaged.
        StateError: The run folder is already beyond ``config.steps``.
        TrainingError: The loss is no number any more, or grows without bound; the newest checkpoint is from before.
        Interrupted: SIGTERM has come; a checkpoint of the last step is there.
    """
    run = _Run(pipe, batches, encoded, out=out, config=config, latents=latents)
    run.resume()
    with stop_request() as stop:
        run.loop(validate, stop)
    run.show_average()
    return TrainReport(steps=run.step, seconds=run.seconds, losses=run.losses(), share=run.share)


class _Run:
    """State of one training run."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        batches: BatchSource,
        encoded: EncodedPrompts,
        *,
        out: Path,
        config: TrainConfig,
        latents: Latents | None,
    ) -> None:
        self.pipe, self.batches, self.out, self.config = pipe, batches, out, config
        self.family = family_of(pipe.transformer)
        sample_sigmas = sigma_sampler(self.family, pipe.scheduler, config)
        require_trackers(config.trackers)
        # Later sessions of a run log into the same folder; accelerate keeps its logs below it.
        processes()  # first, as it decides how they meet
        self.accelerator = Accelerator(
            # accelerate keeps its precision for the whole process; runs differ in theirs, so the loss casts instead.
            mixed_precision="no",
            log_with=list(config.trackers),
            project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "logs")),
        )
        device, self.places = self.accelerator.device, _places(self.accelerator, config)
        prepared = prepare_model(pipe.transformer, config, device=device, latents=latents)
        self.share, self.dtype, self.trained_dtypes = prepared.share, prepared.dtype, prepared.trained_dtypes
        self.trainable = {name: p for name, p in pipe.transformer.named_parameters() if p.requires_grad}
        optimizer = build_optimizer(
            rate_groups(self.trainable, new_parts=self.family.new_parts, factor=prepared.rate_factor),
            config,
            device=device,
        )
        keep_frozen_out_of_ddp(pipe.transformer)
        self.model, self.optimizer = self.accelerator.prepare(
            pipe.transformer, optimizer, device_placement=[not config.block_offload, True]
        )
        self.loss = BatchLoss(
            family=self.family,
            config=config,
            encoded=encoded,
            sample_sigmas=sample_sigmas,
            device=device,
            teacher=prepared.teacher,
            perceptual=perceptual_of(config, device),
            noise_scale=pipe.vae.config["noise_scale"],
        )
        self.average = average_of(self.trainable.values(), config)
        self.step, self.seconds = 0, 0.0

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one, and forget the losses behind it."""
        shapes = {name: parameter.shape for name, parameter in self.trainable.items()}
        saved = load_newest_checkpoint(self.checkpoints, shapes)
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
                # In the parameters' own layout, see prepare_model.
                for shadow, name in zip(self.average.shadow_params, self.trainable, strict=True):
                    shadow.copy_(saved.average[name])
                self.average.optimization_step = saved.step
            logger.info("going on from step %d", self.step)
        if self.accelerator.is_main_process:
            kept = [line for line in self._loss_lines() if json.loads(line)["step"] <= self.step]
            self._loss_path.parent.mkdir(parents=True, exist_ok=True)
            self._loss_path.write_text("".join(line + "\n" for line in kept))
        self.accelerator.wait_for_everyone()
        self.guard = Guard(self.config.divergence_factor, (loss for _, loss in self.losses()))

    def loop(self, validate: Validate | None, stop: StopRequest) -> None:
        """Train up to the last step."""
        with self.batches.over(range(self.step, self.config.steps), places=self.places) as batches:
            self._train_on(batches, validate, stop)
        finish_trackers(self.accelerator)

    def _train_on(
        self, batches: Iterator[Sequence[Mapping[str, Any]]], validate: Validate | None, stop: StopRequest
    ) -> None:
        config = self.config
        self.accelerator.init_trackers(PROJECT)
        self.model.train()
        bar = tqdm(
            initial=self.step,
            total=config.steps,
            desc="train",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        started = time.monotonic() - self.seconds
        for items in batches:
            loss, gradient_norm = self._train_step(items)
            self.step += 1
            self.seconds = time.monotonic() - started
            self._log(loss, gradient_norm, bar)
            last = self.step == config.steps
            stopping = not last and self._any_process(stop.asked)
            if last or stopping or self.step % config.checkpoint_every == 0:
                self._save()
            if stopping:
                # Else the launcher kills the process that saves, soon after the first other one has ended.
                self.accelerator.wait_for_everyone()
                raise self._interrupted()
            due = config.validate_every and self.step % config.validate_every == 0
            # Blocks in shards run on all processes or on none.
            looks = self.accelerator.is_main_process or config.shard_frozen
            if validate is not None and (due or last) and looks:
                self._validate(validate)
                started = time.monotonic() - self.seconds
        bar.close()

    def show_average(self) -> None:
        """Leave the averaged weights in the pipeline, if the run keeps any, all in the dtypes that they came with.

        LoRAs stay in float32, as they are added to other weights before these are rounded.
        """
        if self.average is not None:
            self.average.copy_to(self.trainable.values())
        for name, parameter in self.trainable.items():
            parameter.data = parameter.data.to(self.trained_dtypes[name])
        trained = unwrapped(self.model).eval()
        trained.head.to(memory_format=torch.contiguous_format)
        trained.head.tile_px = None
        cast_lora_inputs(trained, enabled=True)
        for part in ("transformer", *self.family.twins):
            setattr(self.pipe, part, trained)

    def losses(self) -> list[tuple[int, float]]:
        """Return step and loss of every step of the run."""
        return [(line["step"], line["loss"]) for line in map(json.loads, self._loss_lines())]

    def _train_step(self, items: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """Do one step on this process's items; return the mean loss of all processes, and the gradient's norm."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate_factor"] * learning_rate_at(
                self.step,
                peak=config.learning_rate,
                steps=config.steps,
                warmup_steps=config.warmup_steps,
                cooldown_steps=config.cooldown_steps,
            )
        share = len(self.places) // config.accumulation_steps
        total = torch.zeros((), device=self.accelerator.device)
        for start in range(0, len(self.places), share):
            places = self.places[start : start + share]
            is_last = start + share == len(self.places)
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                part = items[start : start + share]
                loss = self.loss(self.model, part, step=self.step, places=places) / config.accumulation_steps
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = self.accelerator.clip_grad_norm_(self.trainable.values(), config.max_gradient_norm)
        mean, gradient_norm = self.accelerator.reduce(total, "mean").item(), float(norm)
        self.guard.check(
            mean,
            gradient_norm,
            step=self.step + 1,
            images=self.batches.names(self.step),
            kept=newest_folder(self.checkpoints),
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(self.trainable.values())
        return mean, gradient_norm

    def _log(self, loss: float, gradient_norm: float, bar: tqdm) -> None:
        if not self.accelerator.is_main_process:
            return
        with self._loss_path.open("a") as file:
            file.write(json.dumps({"step": self.step, "loss": loss, "gradient_norm": gradient_norm}) + "\n")
        rate = self.optimizer.param_groups[0]["lr"]
        self.accelerator.log({"loss": loss, "gradient_norm": gradient_norm, "learning_rate": rate}, step=self.step)
        bar.update()
        shown = {"loss": f"{loss:.4f}", "images/s": f"{self.step * self.config.batch_size / self.seconds:.1f}"}
        if self.accelerator.device.type == "cuda":
            shown["GB"] = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"
        bar.set_postfix(shown, refresh=False)

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        average = None
        if self.average is not None:
            average = dict(zip(self.trainable, self.average.shadow_params, strict=True))
        save_checkpoint(
            self.checkpoints,
            Checkpoint(
                step=self.step,
                seconds=self.seconds,
                trainable={name: parameter.detach() for name, parameter in self.trainable.items()},
                average=average,
                optimizer=self.optimizer.state_dict(),
            ),
            keep=self.config.keep_checkpoints,
            milestone_every=self.config.milestone_every,
        )

    def _validate(self, validate: Validate) -> None:
        """Show the pipeline with averaged weights to the caller, then put the trained ones back."""
        self.model.eval()
        if self.average is not None:
            self.average.store(self.trainable.values())
            self.average.copy_to(self.trainable.values())
        # Trainable weights are float32: beside a bfloat16 trunk only autocast brings the two together.
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.dtype != torch.float32):
            seen = validate(self.step, self.pipe) or Validation()
        is_first = self.accelerator.is_main_process
        if seen.picture_CHW is not None and is_first:
            log_picture(self.accelerator, "validation", seen.picture_CHW, step=self.step)
        if seen.metrics:
            self.accelerator.log(dict(seen.metrics), step=self.step)
        if self.average is not None:
            self.average.restore(self.trainable.values())
        self.model.train()
        if is_first and seen.error is not None and seen.error < best_error(self.checkpoints):
            self._save()
            mark_best(self.checkpoints, step=self.step, error=seen.error)

    def _any_process(self, asked: bool) -> bool:
        """Tell whether any process has been asked: all of them must stop at the same step."""
        flag = torch.tensor(float(asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def _interrupted(self) -> Interrupted:
        finish_trackers(self.accelerator)
        return Interrupted(
            "The run was asked to stop",
            found=f"SIGTERM at step {self.step}, of which a checkpoint is in {self.checkpoints}",
            expected=f"{self.config.steps} steps",
            fix="Run the same command again: it goes on where it stopped.",
        )

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.out / "checkpoints"

    @property
    def _loss_path(self) -> Path:
        return self.out / "losses.jsonl"

    def _loss_lines(self) -> list[str]:
        return self._loss_path.read_text().splitlines() if self._loss_path.exists() else []


def _places(accelerator: Accelerator, config: TrainConfig) -> range:
    """Return the places of the batch that this process trains on.

    Raises:
        ConfigError: If the batch does not divide among processes and micro-batches.
    """
    parts = accelerator.num_processes * config.accumulation_steps
    if config.batch_size % parts:
        raise ConfigError(
            "The batch does not divide among processes and micro-batches",
            found=f"batch_size {config.batch_size}, {accelerator.num_processes} processes, "
            f"accumulation_steps {config.accumulation_steps}",
            expected=f"a multiple of {parts}",
            fix="Change batch_size or accumulation_steps.",
        )
    return range(accelerator.process_index, config.batch_size, accelerator.num_processes)
