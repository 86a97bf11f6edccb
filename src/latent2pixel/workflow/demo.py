"""The whole paper in miniature: prompts, source images, conversion, training, sampling, scoring, one report.

Every stage leaves a finished folder or file behind: the same call again goes on with the first that is missing.
"""

import json
import logging
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from latent2pixel.config import dump_yaml, load_yaml
from latent2pixel.convert import convert
from latent2pixel.data.prompts import Prompt, load_prompts
from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import synthesize
from latent2pixel.device import fastest_device, machine_name
from latent2pixel.errors import StateError
from latent2pixel.evaluate.cost import measure_cost
from latent2pixel.generate import load_pipeline
from latent2pixel.io.images import bytes_of, image_grid, image_of, load_image, save_image
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline
from latent2pixel.io.records import read_records
from latent2pixel.recipes import Recipe, miniature, require_recipe
from latent2pixel.report.content import CostRow, ImagePair, ReportContent, Stage
from latent2pixel.report.html import write_report
from latent2pixel.workflow.demo_config import DemoConfig
from latent2pixel.workflow.drawing import draw_pictures
from latent2pixel.workflow.fit_images import load_fit_images
from latent2pixel.workflow.transfer import TransferReport, transfer
from latent2pixel.workflow.world_judge import world_retention
from latent2pixel.workflow.world_prompts import heldout_prompts, write_world_prompts
from latent2pixel.world.captions import heldout_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.score import Score, score_folder, score_images
from latent2pixel.world.source_model import SHIPPED_SOURCE

logger = logging.getLogger(__name__)

NUM_SHOWN = 12
"""Pictures of the first look, and pairs in the report."""
DEFAULT_STEPS = {"images": 1000, "source": 300}
"""Training steps for each objective: of the miniature's fifteen minutes, seven from a random start, three from a
lift."""
NUM_CURVE_POINTS = 4
"""Points of the score curve."""
CURVE_CAPTIONS = 60
"""Held-out captions behind one point of the score curve: an error of about 0.06 for a few seconds of sampling."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a demo found."""

    source_score: Score
    pixel_score: Score
    retention: float
    """Pixel score over source score."""
    retention_error: float
    """Its standard error, from resamples of captions, the same for both models; NaN where the source scores nothing."""
    minutes: float
    """Time of all stages, over all calls."""
    steps: int
    report: Path

    def as_record(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self) | {"report": str(self.report)}


def run_demo(
    out: Path,
    *,
    config: DemoConfig,
    cost_sizes_px: Sequence[int] | None = None,
    announce: Callable[[str], None] = logger.info,
) -> DemoResult:
    """Run the transfer end to end, or go on where an earlier call stopped.

    Args:
        out: Folder of all results; the report is ``report.html`` in it.
        config: Settings.
        cost_sizes_px: Sizes at which latency and memory are measured; weights do not matter for either. None takes
            the image size, and for the miniature also two and four times it.
        announce: Takes one line for each stage.

    Raises:
        StateError: The folder belongs to a demo with other settings.
        L2PError: The source or a file in the folder cannot be used.
    """
    return _Demo(out, config, cost_sizes_px, announce).run()


class _Demo:
    """One demo and the folder it fills."""

    def __init__(
        self, out: Path, config: DemoConfig, cost_sizes_px: Sequence[int] | None, announce: Callable[[str], None]
    ) -> None:
        self.out, self.config, self.announce = out, config, announce
        self.level = require_level(config.level)
        is_shipped = config.source == "shipped"
        self.source = SHIPPED_SOURCE if is_shipped else find_pipeline_folder(config.source)
        recipe = require_recipe(config.recipe)
        self.recipe: Recipe = miniature(recipe) if is_shipped else recipe
        default_steps = DEFAULT_STEPS[self.recipe.training.objective]
        self.steps = config.steps if config.steps is not None else default_steps
        self.size_px = config.image_size_px or self.recipe.training.image_size_px
        # On most CPUs bfloat16 is slower than float32; another source keeps its own dtype.
        self.dtype = torch.float32 if is_shipped else None
        self.cost_sizes_px = cost_sizes_px or [factor * self.size_px for factor in ((1, 2, 4) if is_shipped else (1,))]
        self._claim()

    def run(self) -> DemoResult:
        self._stage("first look", self._first_look)
        self._stage("source images", self._source_images)
        self._stage("convert", self._convert)
        transferred = self._stage("train", self._train)
        self._stage("sample", self._sample_heldout)
        costs = self._stage("cost", self._costs)
        return self._report(transferred, costs)

    def _claim(self) -> None:
        """Write ``demo.yaml``, or check that the folder's own is the same."""
        path = self.out / "demo.yaml"
        if path.exists():
            before, now = load_yaml(path), asdict(self.config)
            if differing := sorted(key for key in now if before.get(key) != now[key]):
                raise StateError(
                    "The folder holds a demo with other settings",
                    found=", ".join(f"{key} = {now[key]}" for key in differing),
                    expected=", ".join(f"{key} = {before.get(key)}" for key in differing),
                    fix="Repeat the earlier settings to go on, or choose another folder with --out.",
                )
        self.out.mkdir(parents=True, exist_ok=True)
        dump_yaml(self.config, path)

    def _stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Do one stage and add its time to ``stages.json``."""
        self.announce(name)
        started = time.monotonic()
        result = work()
        seconds = self._stages()
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
        (self.out / "stages.json").write_text(json.dumps(seconds))
        return result

    def _stages(self) -> dict[str, float]:
        path = self.out / "stages.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _prompts(self) -> list[Prompt]:
        """Return training captions that pass the filter, an equal number of each task."""
        folder = self.out / "prompts"
        config = self.config
        report = write_world_prompts(folder, level=config.level, num=config.num_prompts, seed=config.seed)
        self.announce(f"{report.kept} prompts kept, {sum(report.rejected.values())} rejected")
        return load_prompts(folder / "prompts.jsonl")

    def _heldout_prompts(self) -> list[Prompt]:
        return heldout_prompts(self.level, self.config.num_captions, seed=self.config.seed)

    def _synthesize(
        self, pipe: DiffusionPipeline, prompts: list[Prompt], folder: Path, seeds: int, *, source: Path
    ) -> None:
        synthesize(
            pipe,
            prompts,
            folder,
            seeds_per_prompt=seeds,
            image_size_px=self.size_px,
            num_steps=self.config.num_steps,
            guidance_scale=self.config.guidance_scale,
            seed=self.config.seed,
            source=source_facts(source),
        )

    def _open_source(self) -> DiffusionPipeline:
        pipe = open_pipeline(self.source, dtype=self.dtype)
        return pipe.to(fastest_device())

    def _first_look(self) -> None:
        """Sample a few held-out captions and save them as one picture: something to see within a minute."""
        path = self.out / "first-look.png"
        if path.exists():
            return
        folder = self.out / "first-look"
        self._synthesize(self._open_source(), self._heldout_prompts()[:NUM_SHOWN], folder, seeds=1, source=self.source)
        images = [load_image(file) for file in sorted(folder.glob("shard-*/*.png"))]
        save_image(path, image_grid(images, columns=6))
        self.announce(f"images of the source: {path}")

    def _source_images(self) -> None:
        pipe = self._open_source()
        seeds = self.config.seeds_per_prompt
        self._synthesize(pipe, self._heldout_prompts(), self.out / "source-heldout", seeds=2, source=self.source)
        self._synthesize(pipe, self._prompts(), self.out / "images", seeds=seeds, source=self.source)

    def _convert(self) -> None:
        settings = self.recipe.conversion
        report = convert(
            self.source,
            self.out / "converted",
            patch_size=settings.patch_size,
            recipe=settings.freezing,
            head=settings.head,
            head_feature_norm=settings.head_feature_norm,
            num_blocks=settings.num_blocks,
            fit_images=load_fit_images(self.out / "images", self.size_px)
            if settings.initialisation == "lift"
            else None,
            warm_up_steps=self.config.warm_up_steps,
            seed=self.config.seed,
            torch_dtype=self.dtype,
        )
        self.announce(report.plan.describe())

    def _train(self) -> TransferReport:
        settings = replace(
            self.recipe.training,
            steps=self.steps,
            warmup_steps=min(self.recipe.training.warmup_steps, self.steps // 10),
            cooldown_steps=self.steps * 3 // 10,
            validate_every=max(self.steps // NUM_CURVE_POINTS, 1),
            image_size_px=self.size_px,
            seed=self.config.seed,
            validation_guidance=self.config.guidance_scale,
            validation_steps=self.config.num_steps,
        )
        return transfer(
            self.out / "converted",
            self.out / "images",
            self.out / "train",
            config=settings,
            source=self.source,
            on_validate=self._score_curve_point,
            announce=self.announce,
        )

    def _score_curve_point(self, step: int, pipe: DiffusionPipeline) -> dict[str, float]:
        wanted = heldout_captions(self.level, CURVE_CAPTIONS, seed=self.config.seed + 1)
        pictures = draw_pictures(
            pipe,
            [caption.text for caption in wanted],
            size_px=self.size_px,
            num_steps=self.config.num_steps,
            guidance_scale=self.config.guidance_scale,
            seed=self.config.seed,
        )
        score = score_images(pictures, wanted)
        self.announce(f"step {step}: score {score}")
        points = {line["step"]: line for line in self._score_curve()}
        points[step] = {"step": step, "score": score.score, "standard_error": score.standard_error}
        (self.out / "score-curve.json").write_text(json.dumps(list(points.values())))
        return {"score": score.score}

    def _score_curve(self) -> list[dict[str, Any]]:
        path = self.out / "score-curve.json"
        return json.loads(path.read_text()) if path.exists() else []

    def _sample_heldout(self) -> None:
        model = self.out / "train" / "model"
        pipe = load_pipeline(model)
        self._synthesize(pipe, self._heldout_prompts(), self.out / "pixel-heldout", seeds=2, source=model)

    def _costs(self) -> list[CostRow]:
        path = self.out / "costs.json"
        if not path.exists():
            rows = []
            for model, folder in (("source", self.source), ("pixel", self.out / "train" / "model")):
                for figures in measure_cost(
                    folder, sizes_px=self.cost_sizes_px, num_steps=4, seed=self.config.seed, dtype=self._cost_dtype()
                ):
                    rows.append({"model": model, **asdict(figures)})
            path.write_text(json.dumps(rows))
        return [CostRow(**row) for row in json.loads(path.read_text())]

    def _cost_dtype(self) -> str | None:
        return None if self.dtype is None else str(self.dtype).removeprefix("torch.")

    def _report(self, transferred: TransferReport, costs: list[CostRow]) -> DemoResult:
        source_score = score_folder(self.out / "source-heldout", self.level)
        pixel_score = score_folder(self.out / "pixel-heldout", self.level)
        kept = world_retention(
            self.out / "source-heldout", self.out / "pixel-heldout", level=self.level, seed=self.config.seed
        )
        retention, error = (
            math.nan if value is None or kept.value is None else value for value in (kept.value, kept.standard_error)
        )
        pairs = self._pairs()
        if not (self.out / "pairs.png").exists():
            save_image(self.out / "pairs.png", _grid_of(pairs))
        stages = self._stages()
        content = ReportContent(
            title="Latent to pixel, in miniature",
            source_name=self.config.source,
            pairs=pairs,
            source_score=source_score.as_record(),
            pixel_score=pixel_score.as_record(),
            retention=retention,
            retention_error=error,
            loss_curve=transferred.training.losses,
            score_curve=[(point["step"], point["score"], point["standard_error"]) for point in self._score_curve()],
            stages=[Stage(name=name, seconds=seconds) for name, seconds in stages.items()],
            costs=costs,
            facts=self._facts(transferred),
        )
        path = self.out / "report.html"
        write_report(content, path)
        return DemoResult(
            source_score=source_score,
            pixel_score=pixel_score,
            retention=retention,
            retention_error=error,
            minutes=sum(stages.values()) / 60,
            steps=transferred.training.steps,
            report=path,
        )

    def _pairs(self) -> list[ImagePair]:
        """Return source and pixel image of the first captions, made from the same seeds."""
        both = zip(self._first_records("source-heldout"), self._first_records("pixel-heldout"), strict=True)
        return [ImagePair(caption=caption, source=source, pixel=pixel) for (caption, source), (_, pixel) in both]

    def _first_records(self, name: str) -> list[tuple[str, np.ndarray]]:
        found: dict[str, np.ndarray] = {}
        for file in sorted((self.out / name).glob("shard-*/metadata.jsonl")):
            for record in read_records(file):
                if record["prompt"] not in found and len(found) < NUM_SHOWN:
                    found[record["prompt"]] = bytes_of(load_image(file.parent / record["file_name"]))
        return list(found.items())

    def _facts(self, transferred: TransferReport) -> list[tuple[str, str]]:
        config, share = self.config, transferred.training.share
        return [
            ("Source", config.source),
            ("Recipe", config.recipe),
            ("Training", f"{self.steps} steps of {self.recipe.training.batch_size} images"),
            ("Source images", f"{config.num_prompts} captions x {config.seeds_per_prompt} seeds"),
            ("Trainable", f"{share.num_trainable:,} of {share.num_total:,} parameters ({share.share:.1%})"),
            ("Sampling", f"{config.num_steps} Euler steps, guidance {config.guidance_scale}, stock pipeline"),
            ("Seed", str(config.seed)),
            ("Hardware", machine_name()),
            ("Software", f"torch {torch.__version__}, Python {platform.python_version()}"),
            ("Date", date.today().isoformat()),
        ]


def _grid_of(pairs: Sequence[ImagePair]) -> Tensor:
    """Return the source's pictures in a row above the pixel model's, (3, H, W) in [-1, 1]."""
    pictures = [pair.source for pair in pairs] + [pair.pixel for pair in pairs]
    return image_grid([image_of(picture) for picture in pictures], columns=len(pairs))
