"""Runs studies over seeds, goes on where an earlier call stopped, and shares the runs with other calls.

Every run (an arm, a seed) has a folder and a lock: calls of the same command beside each other take different runs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from latent2pixel.data.claim import claim_folder, other_settings
from latent2pixel.data.source_facts import source_facts
from latent2pixel.device import fastest_device
from latent2pixel.io.images import load_image
from latent2pixel.io.new_folder import write_file
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.io.records import read_records, write_records
from latent2pixel.report.ablation import AblationResult, write_ablation
from latent2pixel.workflow.ablation.images import AblationImages
from latent2pixel.workflow.ablation.plan import ArmPlan, plan_arm
from latent2pixel.workflow.ablation.run import ArmRun, Row
from latent2pixel.workflow.ablation.study import AblationConfig, Study
from latent2pixel.workflow.ablation.yardstick import Yardstick
from latent2pixel.world.source_model import RESOLUTION_PX

ROWS, SETTINGS, LOCK = "rows.jsonl", "settings.json", ".lock"
RUNS, IMAGES = "runs", "images"
"""Sub-folders of an ablation's folder."""


class Ablation:
    """Studies, their seeds, and the folder that keeps their runs.

    Args:
        out: Holds ``runs``, ``images``, and a table and a figure of each study.
        source: Pipeline folder of a miniature source.
        other: Of another one, for arms that train on its images.
        config: The budget.
        announce: Is told of every run that begins.

    Raises:
        StateError: The folder was begun with another source or budget, or holds a run of another version's settings.
    """

    def __init__(
        self, out: Path, *, source: Path, other: Path | None, config: AblationConfig, announce: Callable[[str], object]
    ) -> None:
        self.out, self.source, self.other, self.config, self.announce = out, source, other, config, announce
        settings = {"source": source_facts(source).revision, **json.loads(json.dumps(asdict(config)))}
        claim_folder(out, settings, begun=(out / RUNS).exists())

    def run(self, studies: Sequence[Study], seeds: Sequence[int]) -> list[AblationResult]:
        """Run what is missing and no other call is running; write and return what there is by then.

        Raises:
            ConfigError: An arm trains on images that nothing here can draw; nothing has run then.
        """
        plans = [
            (seed, study, plan_arm(arm, study, self.config))
            for seed in seeds
            for study in studies
            for arm in study.arms
        ]
        for seed, _, plan in plans:
            self._images(seed).pipeline_of(plan.arm.images, plan.image_size_px)
        for number, (seed, study, plan) in enumerate(plans, start=1):
            name = f"{study.name}, {plan.arm.name}, seed {seed} ({number} of {len(plans)})"
            self._once(self._folder(plan.key, seed), name, partial(self._arm_rows, plan, seed), plan.settings)
        for seed in seeds:
            self._once(self._folder("source", seed), f"the source, seed {seed}", partial(self._source_rows, seed), {})
        return [self._result(study, seeds) for study in studies]

    def _once(self, folder: Path, name: str, rows: Callable[[], list[Row]], settings: Mapping[str, Any]) -> None:
        """Make the rows of a run, unless they are there or in the making."""
        if (folder / ROWS).exists():
            _require_same(folder, settings)
            return
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / LOCK, timeout=0):
                if not (folder / ROWS).exists():
                    self.announce(name)
                    write_file(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
                    write_records(folder / ROWS, rows())
        except Timeout:
            self.announce(f"{name}: another process has it")

    def _arm_rows(self, plan: ArmPlan, seed: int) -> list[Row]:
        return ArmRun(plan=plan, images=self._images(seed), out=self._folder(plan.key, seed)).rows()

    def _source_rows(self, seed: int) -> list[Row]:
        """Return the source's own score."""
        yardstick = Yardstick(images=self._images(seed), image_size_px=RESOLUTION_PX)
        pipe = open_pipeline(self.source, dtype=torch.float32).to(fastest_device())
        return [{"seed": seed, "step": 0, "seconds": 0.0, **yardstick.score(yardstick.draw(pipe))}]

    def _images(self, seed: int) -> AblationImages:
        return AblationImages(
            folder=self.out / IMAGES / f"seed-{seed}",
            source=self.source,
            other=self.other,
            config=self.config,
            seed=seed,
        )

    def _folder(self, key: str, seed: int) -> Path:
        return self.out / RUNS / key / f"seed-{seed}"

    def _result(self, study: Study, seeds: Sequence[int]) -> AblationResult:
        """Return what is there of a study, written to its files."""
        rows, pictures, missing = [], {}, 0
        for arm in study.arms:
            key = plan_arm(arm, study, self.config).key
            for seed in seeds:
                folder = self._folder(key, seed)
                found = self._rows_in(folder)
                missing += not found
                rows += [{"arm": arm.name, **row} for row in found]
                picture = folder / f"look-{self.config.steps:06d}.png"
                if arm.name not in pictures and picture.exists():
                    pictures[arm.name] = load_image(picture)
        source = [row["score"] for seed in seeds for row in self._rows_in(self._folder("source", seed))]
        result = AblationResult(
            name=study.name,
            question=study.question,
            claim=study.claim,
            rows=rows,
            # The source draws pictures of its own size only.
            source_scores=source if study.image_size_px == RESOLUTION_PX else [],
            missing=missing,
        )
        if rows:
            write_ablation(result, self.out, pictures=pictures)
        return result

    def _rows_in(self, folder: Path) -> list[Row]:
        path = folder / ROWS
        return read_records(path) if path.exists() else []


def _require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Check a finished run's settings, as far as both versions know them: a default may have changed since."""
    before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    for part in settings.keys() & before.keys():
        if isinstance(settings[part], dict):
            known = settings[part].keys() & before[part].keys()
            if differing := sorted(key for key in known if settings[part][key] != before[part][key]):
                message = f"{folder} holds a run whose {part} had other settings"
                raise other_settings(message, settings[part], before[part], differing=differing)
