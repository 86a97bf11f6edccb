"""Runs one arm of an ablation with one seed."""

import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.convert.images import NUM_FIT_IMAGES, FitImages
from latent2pixel.convert.initialise import encode_tokens, fit_lift
from latent2pixel.convert.warm_up import warm_up
from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.device import fastest_device, machine_name
from latent2pixel.families import family_of
from latent2pixel.io.images import image_grid, save_image
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.model.lift import LiftFit
from latent2pixel.seeds import step_generator
from latent2pixel.train import train
from latent2pixel.workflow.ablation.images import AblationImages
from latent2pixel.workflow.ablation.plan import ArmPlan
from latent2pixel.workflow.ablation.yardstick import Yardstick

Row = dict[str, Any]
"""A look: arm, seed, step, seconds, machine, and ``Measured.numbers``."""
SUBSETS = 7
"""Counter of the generator that draws an arm's images, see ``seeds``."""


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """One arm, one seed, and the folder that keeps its looks."""

    plan: ArmPlan
    images: AblationImages
    out: Path

    def rows(self) -> list[Row]:
        """Make and measure the pixel model; pictures of every look stay in the folder."""
        return self._warmed_up() if self.plan.conversion.initialisation == "lift" else self._trained()

    def _trained(self) -> list[Row]:
        """Train a converted source and look at it on the way; looking does not count as time."""
        plan, seed, folder = self.plan, self.images.seed, self.out / "train"
        # What a killed call left would go on behind its last look.
        shutil.rmtree(folder, ignore_errors=True)
        dataset, kept = self.dataset()
        pipe = self._built(self._open_source())
        shift = self._set_shift(pipe)
        family, looks = family_of(pipe.transformer), self.images.config.looks
        texts = list(dict.fromkeys([family.null_prompt, *dataset.prompts]))
        encoded = dict(zip(texts, family.encode(pipe, texts), strict=True))
        rows = [self.seen(pipe, 0.0, step=0)] if 0 in looks else []
        settings = replace(plan.training, seed=seed, shift=shift, validate_every=math.gcd(*looks))
        order = BatchPlan(
            [dataset.sizes[index] for index in kept],
            [dataset.weights[index] for index in kept],
            batch_size=settings.batch_size,
            seed=seed,
        )
        batches = Batches(Subset(dataset, kept), order, names=[dataset.paths[index] for index in kept], seed=seed)
        looked, started = 0.0, time.perf_counter()

        def look(step: int, shown: Any) -> None:
            nonlocal looked
            before = time.perf_counter()
            if step in looks:
                rows.append(self.seen(shown, before - started - looked, step=step))
            looked += time.perf_counter() - before

        train(pipe, batches, encoded.__getitem__, out=folder, config=settings, validate=look)
        shutil.rmtree(folder)
        return rows

    def _warmed_up(self) -> list[Row]:
        """Convert with a warm-up as long as each look; a conversion's whole time counts, for each look again."""
        return [self.seen(*self.lifted(steps), step=steps) for steps in self.images.config.looks]

    def lifted(self, steps: int) -> tuple[Any, float]:
        """Return a lifted pipeline with a warm-up of some steps, and the seconds of encoding, fit and warm-up."""
        conversion, seed = self.plan.conversion, self.images.seed
        dataset, kept = self.dataset()
        chosen = FitImages(name="images", images=[dataset.stored(index)["image"] for index in kept[:NUM_FIT_IMAGES]])
        source = self._open_source()
        started = time.perf_counter()
        tokens = encode_tokens(source, chosen, patch_size=conversion.patch_size)
        fit = fit_lift(
            source,
            chosen,
            tokens,
            patch_size=conversion.patch_size,
            input_map=conversion.input_map,
            generator=torch.Generator().manual_seed(seed),
        )
        pipe = self._built(source, fit)
        shift = self._set_shift(pipe) or self._shift_of(pipe)
        warm_up(
            pipe.transformer, chosen, tokens, settings=replace(self.plan.warm_up, steps=steps), shift=shift, seed=seed
        )
        return pipe, time.perf_counter() - started

    def _built(self, source: Any, fit: LiftFit | None = None) -> Any:
        conversion = self.plan.conversion
        pipe = build_pixel_pipeline(
            source,
            patch_size=conversion.patch_size,
            head=conversion.head,
            head_feature_norm=conversion.head_feature_norm,
            lift=fit,
            lift_wiener=conversion.wiener,
            noise_scale=conversion.noise_scale,
            seed=self.images.seed,
        )
        return pipe.to(fastest_device())

    def seen(self, pipe: Any, seconds: float, *, step: int) -> Row:
        """Return a look at a pipeline; its pictures go into the folder."""
        measured = Yardstick(images=self.images, image_size_px=self.plan.image_size_px).measure(pipe)
        save_image(self.out / f"look-{step:06d}.png", image_grid(measured.pictures, columns=len(measured.pictures)))
        looked = {"step": step, "seconds": seconds, "machine": machine_name()}
        return {"seed": self.images.seed, **looked, **measured.numbers}

    def dataset(self) -> tuple[ImageFolderDataset, list[int]]:
        """Return the arm's images, and which of them are used."""
        arm = self.plan.arm
        dataset = self.images.training(arm.images, self.plan.image_size_px)
        return dataset, subset(len(dataset), arm.num_images, seed=self.images.seed)

    def _open_source(self) -> Any:
        """Return the source with its VAE where encoding is fast; the fit reads the rest on the CPU."""
        pipe = open_pipeline(self.images.source, dtype=torch.float32)
        pipe.vae.to(fastest_device())
        return pipe

    def _set_shift(self, pipe: Any) -> float | None:
        """Give the pipeline's scheduler the arm's noise shift, and return it; none leaves both as they are."""
        shift = self.plan.arm.shift
        if isinstance(shift, str):
            source = self._open_source()
            shift = self._derived_shift(source) if shift == "derived" else self._shift_of(source)
        if shift is not None:
            pipe.scheduler = family_of(pipe.transformer).with_shift(pipe.scheduler, shift / self._shift_of(pipe))
        return shift

    def _shift_of(self, pipe: Any) -> float:
        grid = (self.plan.image_size_px // self.plan.conversion.patch_size) ** 2
        return family_of(pipe.transformer).shift(pipe.scheduler, grid)

    def _derived_shift(self, source: Any) -> float:
        """Return the source's shift times the lift's scale at this patch."""
        patch = self.plan.conversion.patch_size
        dataset = self.images.training(self.plan.arm.images, self.plan.image_size_px)
        chosen = FitImages(name="images", images=[item["image"] for item in map(dataset.stored, range(len(dataset)))])
        fit = fit_lift(source, chosen, encode_tokens(source, chosen, patch_size=patch), patch_size=patch)
        return self._shift_of(source) * fit.scale


def subset(num_images: int, wanted: int | None, *, seed: int) -> list[int]:
    """Return the indices of some images, drawn at random, in order; all of them where none are named or too few are."""
    if wanted is None:
        return list(range(num_images))
    order = torch.randperm(num_images, generator=step_generator(seed, SUBSETS))
    return sorted(order[:wanted].tolist())
