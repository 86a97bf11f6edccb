"""Recipes against each other on the miniature: validation error and score against steps and seconds.

python benchmarks/convergence.py OUT [--seeds 0 1 2] [--arms NAME ...] [--quick] [--source FOLDER] [--json]

The engine is that of `l2p ablate`: for each seed the source draws images of 600 captions x 2, and every look has the
velocity error on 96 source images of held-out captions, the world's score on 120 held-out captions, and the patch grid.
Recipes `paper` and `released` train for 1000 steps and are seen at 0, 10, 100, 400 and 1000. Recipe `lift` converts
with warm-ups of several lengths, each a run of its own. From the longest every part is taken away in turn, and it is
trained on: towards its source, the same at the output side alone, and towards the images as published. OUT keeps every
finished arm of a seed, a figure (`convergence.png`) and picture strips of steps 0, 10, 100 and 1000 (`strip.png`); the
same call again goes on. `--quick`: seed 0, recipes `paper` and `lift` only, half the images, looked at less often.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from convergence_report import Row, draw_strip, has_curves, levels, levels_table, to_the_papers_end
from latent2pixel.convert.initialise import latent_tokens
from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.families import family_of
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline
from latent2pixel.report.ablation import draw_curves, looks_table
from latent2pixel.train import train
from latent2pixel.workflow.ablation.images import AblationImages
from latent2pixel.workflow.ablation.plan import plan_arm
from latent2pixel.workflow.ablation.run import ArmRun
from latent2pixel.workflow.ablation.studies import require_study
from latent2pixel.workflow.ablation.study import AblationConfig, Arm
from latent2pixel.workflow.ablation.yardstick import Yardstick
from latent2pixel.world.source_model import RESOLUTION_PX, SHIPPED_SOURCE

TRAINED_STEPS = (0, 10, 100, 400, 1000)
WARM_UP_STEPS = (0, 10, 100, 300, 1000)
QUICK_STEPS = (100, 300, 1000)
"""Steps at which a quick run looks, of either recipe."""
GO_ON_STEPS = 300
GOING_ON: dict[str, dict[str, Any]] = {
    "lift and its source": {},
    "lift and its source, output side": {"freezing": "output"},
    # The rate of recipe paper for the new parts, a tenth for the trunk.
    "lift and the images": {"objective": "images", "learning_rate": 1e-3, "trunk_rate_factor": 0.1},
}
"""What the longest warm-up goes on with: settings that differ from those of recipe lift."""
CURVES = ("paper", "released", "lift")
"""Arms of the figure and the strip."""


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("l2p-convergence"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", default=str(SHIPPED_SOURCE), help="pipeline folder of another tiny source")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="which parts to run or show")
    parser.add_argument("--quick", action="store_true", help="seed 0, recipes paper and lift only")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    arguments = parser.parse_args()
    seeds = [0] if arguments.quick else arguments.seeds
    arms = QUICK_ARMS if arguments.quick else arguments.arms
    folders = {seed: arguments.out / (f"seed-{seed}" + ("-quick" if arguments.quick else "")) for seed in seeds}
    rows = []
    for seed, folder in folders.items():
        rows += Bench(find_pipeline_folder(arguments.source), folder, seed, quick=arguments.quick).rows(arms)
    if has_curves(rows):
        curves = [row for row in rows if row["arm"] in CURVES]
        source = [row["score"] for row in rows if row["arm"] == "source"]
        draw_curves(curves, arguments.out / "convergence.png", source_scores=source)
        draw_strip(folders[seeds[0]], arguments.out / "strip.png")
    machine = {"date": date.today().isoformat(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    ratios = [to_the_papers_end(rows, seed) for seed in seeds] if has_curves(rows) else []
    result = {"rows": rows, "levels": levels(rows), "to_paper": ratios}
    if arguments.json:
        print(json.dumps(result | machine))
        return
    print(looks_table(rows))
    print(levels_table(result["levels"]))
    print("\n".join(json.dumps(each) for each in result["to_paper"]))
    print(f"{machine['date']}, {machine['threads']} threads {platform.machine()}, torch {machine['torch']}")


class Bench:
    """All arms of one seed and the folder that keeps their results."""

    def __init__(self, source: Path, out: Path, seed: int, *, quick: bool) -> None:
        self.source, self.out, self.seed, self.quick = source, out, seed, quick

    def rows(self, arms: Sequence[str]) -> list[Row]:
        """Return the measured points of this seed; finished arms come from their files."""
        rows: list[Row] = []
        for name in arms:
            path = self.out / f"{name.replace(' ', '-')}.json"
            if not path.exists():
                print(f"seed {self.seed}: {name}", file=sys.stderr)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(ARMS[name](self)))
            rows += json.loads(path.read_text())
        return rows

    def run_of(self, arm: Arm, looks: tuple[int, ...]) -> ArmRun:
        """Return the run of an arm that is looked at after some steps."""
        images = self.images_of(looks)
        plan = plan_arm(arm, require_study("recipes"), images.config)
        return ArmRun(plan=plan, images=images, out=self.out / arm.name)

    def images_of(self, looks: tuple[int, ...]) -> AblationImages:
        """Return the images of this seed, which do not hang on the looks."""
        config = AblationConfig(steps=looks[-1], looks=looks, seeds_per_prompt=1 if self.quick else 2)
        return AblationImages(folder=self.out / "images", source=self.source, other=None, config=config, seed=self.seed)

    def source_rows(self) -> list[Row]:
        """Return the source's own score."""
        yardstick = Yardstick(images=self.images_of(QUICK_STEPS), image_size_px=RESOLUTION_PX)
        score = yardstick.score(yardstick.draw(open_pipeline(self.source, dtype=torch.float32)))
        return [{"arm": "source", "seed": self.seed, "step": 0, "seconds": 0.0} | score]

    def trained_rows(self, name: str) -> list[Row]:
        """Train a published recipe, and look at some steps."""
        looks = QUICK_STEPS if self.quick else TRAINED_STEPS
        return [{"arm": name} | row for row in self.run_of(Arm(name=name, recipe=name), looks).rows()]

    def lift_run(self, **conversion: Any) -> ArmRun:
        """Return the run of recipe lift."""
        looks = QUICK_STEPS if self.quick else WARM_UP_STEPS
        return self.run_of(Arm(name="lift", recipe="lift", conversion=conversion), looks)

    def lift_rows(self) -> list[Row]:
        """Convert with several lengths of the warm-up; from the longest take parts away."""
        run = self.lift_run()
        if self.quick:
            return [{"arm": "lift"} | row for row in run.rows()]
        rows = []
        for steps in WARM_UP_STEPS:
            pipe, seconds = run.lifted(steps)
            rows.append({"arm": "lift"} | run.seen(pipe, seconds, step=steps))
        model = pipe.transformer
        whole = {key: value.clone() for key, value in model.state_dict().items()}
        for part, names, value in (
            ("stem", ("lift.stem.weight", "lift.stem.bias"), 0.0),
            ("calibration", ("lift.gain_S",), 1.0),
            ("head", ("head.out_conv.weight", "head.out_conv.bias"), 0.0),
        ):
            state = {key: torch.full_like(whole[key], value) if key in names else whole[key] for key in whole}
            if part == "calibration":
                state["lift.misfit_S"] = torch.zeros_like(state["lift.misfit_S"])
            model.load_state_dict(state)
            without = replace(run, out=self.out / f"lift-without-{part}")
            rows.append({"arm": f"lift without {part}"} | without.seen(pipe, seconds, step=max(WARM_UP_STEPS)))
        return rows

    def going_on_rows(self) -> list[Row]:
        """Train the longest warm-up on, once towards each objective."""
        run = self.lift_run()
        pipe, seconds = run.lifted(max(WARM_UP_STEPS))
        whole = {key: value.clone() for key, value in pipe.transformer.state_dict().items()}
        source, patch = open_pipeline(self.source, dtype=torch.float32), run.plan.conversion.patch_size
        family, (dataset, _) = family_of(pipe.transformer), run.dataset()
        texts = list(dict.fromkeys([family.null_prompt, *dataset.prompts]))
        encoded = dict(zip(texts, family.encode(pipe, texts), strict=True))
        rows = []
        for name, changes in GOING_ON.items():
            pipe.transformer.load_state_dict(whole)
            settings = replace(
                run.plan.training, seed=self.seed, steps=GO_ON_STEPS, cooldown_steps=GO_ON_STEPS // 2, validate_every=0,
                **changes,
            )  # fmt: skip
            plan = BatchPlan(dataset.sizes, dataset.weights, batch_size=settings.batch_size, seed=settings.seed)
            out = self.out / name.replace(" ", "-")
            report = train(
                pipe,
                Batches(dataset, plan, names=dataset.paths, seed=settings.seed),
                encoded.__getitem__,
                out=out,
                config=settings,
                latents=lambda images_BCHW: latent_tokens(source, images_BCHW, family=family, patch_size=patch),
            )
            steps = max(WARM_UP_STEPS) + GO_ON_STEPS
            rows.append({"arm": name} | replace(run, out=out).seen(pipe, seconds + report.seconds, step=steps))
        return rows

    def closed_form_rows(self) -> list[Row]:
        """Convert without any training, the Wiener filter added."""
        run = self.lift_run(wiener=True)
        return [{"arm": "lift, closed form"} | replace(run, out=self.out / "closed-form").seen(*run.lifted(0), step=0)]

    def without_fit_rows(self) -> list[Row]:
        """Convert with a random instead of the fitted matrix."""
        run, steps = self.lift_run(input_map="random"), max(WARM_UP_STEPS)
        seen = replace(run, out=self.out / "without-fit").seen(*run.lifted(steps), step=steps)
        return [{"arm": "lift without fit"} | seen]


ARMS: dict[str, Callable[[Bench], list[Row]]] = {
    "source": Bench.source_rows,
    "lift": Bench.lift_rows,
    "paper": lambda bench: bench.trained_rows("paper"),
    "going on": Bench.going_on_rows,
    "closed form": Bench.closed_form_rows,
    "without fit": Bench.without_fit_rows,
    "released": lambda bench: bench.trained_rows("released"),
}
QUICK_ARMS = ("source", "lift", "paper")


if __name__ == "__main__":
    main()
