"""Recipes against each other on the miniature: validation error and score against steps and seconds.

python benchmarks/convergence.py OUT [--seeds 0 1 2] [--arms NAME ...] [--quick] [--source FOLDER] [--json]

For each seed the source draws images of 600 captions x 2. Recipes `paper` and `released` train for 1000 steps and are
seen at 10, 100, 400 and 1000. Recipe `lift` converts with warm-ups of several lengths, each a run of its own. From the
longest every part is taken away in turn, and it is trained on: towards its source, the same at the output side alone,
and towards the images as published. Validation: squared
velocity error on 96 source images of held-out captions at six noise levels. Score: the world's verifier on 120 held-out
captions; patch grid: their ratio of steps at the borders of patches (`latent2pixel.evaluate.patch_grid`). OUT keeps
every finished arm of a seed, a figure (`convergence.png`) and picture strips of steps 0, 10, 100 and 1000
(`strip.png`); the same call again goes on. `--quick`: seed 0, recipes `paper` and `lift` only, half the
images, looked at less often.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convergence_report import Row, draw_figure, draw_strip, has_curves, levels, levels_table, table, to_the_papers_end
from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.convert.config import InputMap
from latent2pixel.convert.images import NUM_FIT_IMAGES, FitImages
from latent2pixel.convert.initialise import encode_tokens, fit_lift
from latent2pixel.convert.warm_up import WarmUp, warm_up
from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.data.dataset import FirstImages, ImageFolderDataset
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.synthesize import synthesize
from latent2pixel.evaluate.patch_grid import patch_grid_ratio
from latent2pixel.families import family_of
from latent2pixel.flow import add_noise, velocity_from_clean
from latent2pixel.io.images import image_grid, save_image
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline
from latent2pixel.model.predict import predict_velocity
from latent2pixel.recipes import RECIPES, miniature
from latent2pixel.train import TrainConfig, train
from latent2pixel.world.captions import Caption, draw_captions, heldout_captions
from latent2pixel.world.levels import require_level
from latent2pixel.world.score import score_images
from latent2pixel.world.source_model import SHIPPED_SOURCE

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
NUM_VALIDATION_IMAGES, NUM_CAPTIONS, SIZE_PX, PATCH, NUM_SHOWN = 96, 120, 64, 16, 8
LEVEL = require_level("easy")
TRAINED_STEPS = (10, 100, 400, 1000)
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
SAMPLING: dict[str, Any] = {"num_inference_steps": 16, "guidance_scale": 2.0, "height": SIZE_PX, "width": SIZE_PX}


def batches_of(dataset: ImageFolderDataset, settings: TrainConfig) -> Batches:
    """Return the order in which a run sees its images."""
    plan = BatchPlan(dataset.sizes, dataset.weights, batch_size=settings.batch_size, seed=settings.seed)
    return Batches(dataset, plan, names=dataset.paths, seed=settings.seed)


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
        draw_figure(rows, arguments.out / "convergence.png")
        draw_strip(folders[seeds[0]], arguments.out / "strip.png")
    machine = {"date": date.today().isoformat(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    ratios = [to_the_papers_end(rows, seed) for seed in seeds] if has_curves(rows) else []
    result = {"rows": rows, "levels": levels(rows), "to_paper": ratios}
    if arguments.json:
        print(json.dumps(result | machine))
        return
    print(table(rows))
    print(levels_table(result["levels"]))
    print("\n".join(json.dumps(each) for each in result["to_paper"]))
    print(f"{machine['date']}, {machine['threads']} threads {platform.machine()}, torch {machine['torch']}")


class Bench:
    """All arms of one seed and the folder that keeps their results."""

    def __init__(self, source: Path, out: Path, seed: int, *, quick: bool) -> None:
        self.source, self.out, self.seed, self.quick = source, out, seed, quick

    def rows(self, arms: Sequence[str]) -> list[Row]:
        """Return the measured points of this seed; finished arms come from their files."""
        self.make_images()
        rows: list[Row] = []
        for name in arms:
            path = self.out / f"{name.replace(' ', '-')}.json"
            if not path.exists():
                print(f"seed {self.seed}: {name}", file=sys.stderr)
                path.write_text(json.dumps([{"seed": self.seed} | row for row in ARMS[name](self)]))
            rows += json.loads(path.read_text())
        return rows

    def make_images(self) -> None:
        """Let the source draw training and validation images."""
        pipe = self.open_source()
        drawn = {caption.text for caption in draw_captions(LEVEL, "train", 600, seed=self.seed)}
        heldout = [caption.text for caption in heldout_captions(LEVEL, NUM_VALIDATION_IMAGES, seed=self.seed)]
        for name, texts, seeds in (("images", sorted(drawn), 1 if self.quick else 2), ("validation", heldout, 1)):
            prompts = [
                Prompt(id=f"{index:06d}", prompt=text, major_class="miniature", sub_class="scene")
                for index, text in enumerate(texts)
            ]
            synthesize(
                pipe, prompts, self.out / name, seeds_per_prompt=seeds, image_size_px=SIZE_PX, num_steps=16,
                guidance_scale=2.0, batch_size=60, seed=self.seed,
            )  # fmt: skip

    def open_source(self) -> Any:
        """Return the source in float32."""
        return open_pipeline(self.source, dtype=torch.float32)

    def source_rows(self) -> list[Row]:
        """Return the source's own score."""
        return [{"recipe": "source", "step": 0, "seconds": 0.0} | self.score(self.sample(self.open_source()))]

    def trained_rows(self, name: str) -> list[Row]:
        """Train a published recipe as the demo does, and look at some steps."""
        recipe = miniature(RECIPES[name]())
        pipe = build_pixel_pipeline(self.open_source(), head=recipe.conversion.head, seed=self.seed)
        dataset, encoded = self.training_data(pipe)
        rows = [] if self.quick else [self.seen(pipe, name, 0, 0.0)]
        looking, started = [0.0], time.perf_counter()

        def look(step: int, shown: Any) -> None:
            before = time.perf_counter()
            if step in (QUICK_STEPS if self.quick else TRAINED_STEPS):
                rows.append(self.seen(shown, name, step, before - started - looking[0]))
            looking[0] += time.perf_counter() - before

        settings = replace(recipe.training, seed=self.seed, steps=max(TRAINED_STEPS), validate_every=10)
        train(
            pipe,
            batches_of(dataset, settings),
            encoded.__getitem__,
            out=self.out / name,
            config=settings,
            validate=look,
        )
        return rows

    def training_data(self, pipe: Any) -> tuple[ImageFolderDataset, dict[str, Any]]:
        """Return the source's images and the embeddings of their captions."""
        family, dataset = family_of(pipe.transformer), ImageFolderDataset(self.out / "images", SIZE_PX)
        texts = list(dict.fromkeys([family.null_prompt, *dataset.prompts]))
        return dataset, dict(zip(texts, family.encode(pipe, texts), strict=True))

    def lifted(self, *, steps: int, wiener: bool = False, input_map: InputMap = "procrustes") -> tuple[Any, float]:
        """Return a pipeline of the recipe lift and the seconds of its conversion, encoding and fit included."""
        recipe = miniature(RECIPES["lift"]())
        dataset = ImageFolderDataset(self.out / "images", SIZE_PX)
        images = FitImages(name="images", images=FirstImages(dataset, NUM_FIT_IMAGES))
        source = self.open_source()
        started = time.perf_counter()
        tokens = encode_tokens(source, images, patch_size=PATCH)
        generator = torch.Generator().manual_seed(self.seed)
        fit = fit_lift(source, images, tokens, patch_size=PATCH, input_map=input_map, generator=generator)
        pipe = build_pixel_pipeline(source, head=recipe.conversion.head, lift=fit, lift_wiener=wiener, seed=self.seed)
        shift = family_of(pipe.transformer).shift(pipe.scheduler, (SIZE_PX // PATCH) ** 2)
        warm_up(pipe.transformer, images, tokens, settings=WarmUp(steps=steps), shift=shift, seed=self.seed)
        return pipe, time.perf_counter() - started

    def lift_rows(self) -> list[Row]:
        """Convert with several lengths of the warm-up; from the longest take parts away, then train it on."""
        rows = []
        for steps in QUICK_STEPS if self.quick else WARM_UP_STEPS:
            pipe, seconds = self.lifted(steps=steps)
            rows.append(self.seen(pipe, "lift", steps, seconds))
        if self.quick:
            return rows
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
            rows.append(self.seen(pipe, f"lift without {part}", max(WARM_UP_STEPS), seconds))
        return rows

    def going_on_rows(self) -> list[Row]:
        """Train the longest warm-up on, once towards each objective."""
        pipe, seconds = self.lifted(steps=max(WARM_UP_STEPS))
        whole = {key: value.clone() for key, value in pipe.transformer.state_dict().items()}
        recipe, source = miniature(RECIPES["lift"]()), self.open_source()
        family = family_of(pipe.transformer)
        dataset, encoded = self.training_data(pipe)
        rows = []
        for name, changes in GOING_ON.items():
            pipe.transformer.load_state_dict(whole)
            settings = replace(
                recipe.training, seed=self.seed, steps=GO_ON_STEPS, cooldown_steps=GO_ON_STEPS // 2, validate_every=0,
                **changes,
            )  # fmt: skip
            report = train(
                pipe,
                batches_of(dataset, settings),
                encoded.__getitem__,
                out=self.out / name.replace(" ", "-"),
                config=settings,
                latents=lambda images_BCHW: family.tokens(family.latents(source, images_BCHW)),
            )
            rows.append(self.seen(pipe, name, max(WARM_UP_STEPS) + GO_ON_STEPS, seconds + report.seconds))
        return rows

    def closed_form_rows(self) -> list[Row]:
        """Convert without any training, the Wiener filter added."""
        pipe, seconds = self.lifted(steps=0, wiener=True)
        return [self.seen(pipe, "lift, closed form", 0, seconds)]

    def without_fit_rows(self) -> list[Row]:
        """Convert with a random instead of the fitted matrix."""
        pipe, seconds = self.lifted(steps=max(WARM_UP_STEPS), input_map="random")
        return [self.seen(pipe, "lift without fit", max(WARM_UP_STEPS), seconds)]

    def seen(self, pipe: Any, recipe: str, step: int, seconds: float) -> Row:
        """Return one measured point; the first pictures are kept for the strip."""
        pipe.transformer.eval()
        pictures = self.sample(pipe)
        shown = [torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1 for picture in pictures[:NUM_SHOWN]]
        save_image(self.out / "strips" / f"{recipe.replace(' ', '-')}-{step:04d}.png", image_grid(shown, columns=8))
        return {"recipe": recipe, "step": step, "seconds": seconds, **self.error(pipe), **self.score(pictures)}

    @torch.no_grad()
    def error(self, pipe: Any) -> Row:
        """Return the validation error and its parts."""
        family = family_of(pipe.transformer)
        dataset = ImageFolderDataset(self.out / "validation", SIZE_PX)
        images_BCHW = torch.stack([dataset[index]["image"] for index in range(len(dataset))])
        conditioning = family.collate(
            pipe.transformer, family.encode(pipe, dataset.prompts), (SIZE_PX // PATCH, SIZE_PX // PATCH)
        )
        generator, errors = torch.Generator().manual_seed(0), []
        for sigma in SIGMAS:
            sigma_B = torch.full((len(images_BCHW),), sigma)
            noisy_BCHW = add_noise(images_BCHW, torch.randn(images_BCHW.shape, generator=generator), sigma_B)
            target_BCHW = velocity_from_clean(noisy_BCHW, images_BCHW, sigma_B)
            predicted_BCHW = predict_velocity(pipe.transformer, noisy_BCHW, sigma_B, conditioning)
            errors.append((predicted_BCHW - target_BCHW).square().mean().item())
        return {"error": statistics.mean(errors), "errors": errors}

    def wanted(self) -> list[Caption]:
        """Return the held-out captions that are drawn."""
        return heldout_captions(LEVEL, NUM_CAPTIONS, seed=self.seed + 1)

    def score(self, pictures: list[np.ndarray]) -> Row:
        """Return the verifier's score of the held-out captions' pictures, and how visible their patches are."""
        score = score_images(pictures, self.wanted())
        pictures_BCHW = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        grid = patch_grid_ratio(pictures_BCHW, PATCH)
        return {"score": score.score, "score_error": score.standard_error, "chance": score.chance, "grid": grid}

    def sample(self, pipe: Any) -> list[np.ndarray]:
        """Return one picture for each held-out caption, as bytes of (H, W, 3)."""
        pipe.set_progress_bar_config(disable=True)
        generator, pictures, wanted = torch.Generator().manual_seed(self.seed), [], self.wanted()
        for start in range(0, len(wanted), 60):
            prompts = [caption.text for caption in wanted[start : start + 60]]
            pictures += pipe(prompt=prompts, generator=generator, **SAMPLING).images
        return [np.array(picture) for picture in pictures]


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
