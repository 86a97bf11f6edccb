"""The studies that have names: the paper's own (its figures 9 and 12), its recipes, and their rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from latent2pixel.config import build_config, load_yaml
from latent2pixel.errors import ConfigError
from latent2pixel.workflow.ablation.study import Arm, Study

PAPER_STUDIES = ("data", "depth", "size", "shift", "shift-64")
"""Those that repeat figures 9 and 12."""
RATE_FACTORS = (0.3, 1.0, 3.0)
"""Around every recipe's rate, half a decade apart."""
HEAD_64 = (4, 8, 16, 32, 64, 96)
"""The miniature's head with two more levels, a quarter and half as wide as the next, as in the published 4K head."""


def named_studies() -> dict[str, Study]:
    """Return the studies that have names, by name."""
    studies = (
        Study(
            name="data",
            question="Which images train best?",
            claim="The source's own are better than another model's, and these better than real images (figure 9).",
            arms=(
                Arm(name="the source's images"),
                Arm(name="true renders", images="renders"),
                Arm(name="another source's", images="other"),
                Arm(name="the source's and renders, 1:1", images="mix"),
            ),
        ),
        Study(
            name="depth",
            question="How many blocks should train at each end?",
            claim="5 of 30 blocks are better than 10, and full tuning is clearly worse (figure 9).",
            # The miniature has six blocks: one at each end is near the paper's share, three are all.
            arms=(
                Arm(name="1 block, default"),
                Arm(name="2 blocks", training={"num_blocks": 2}),
                Arm(name="3 blocks, all", training={"num_blocks": 3}),
            ),
        ),
        Study(
            name="size",
            question="How many images are enough?",
            claim="20,000 are better than 10,000, and 100,000 no better (figure 9).",
            arms=(
                Arm(name="all images"),
                *(Arm(name=f"{num} images", num_images=num) for num in (120, 12)),
            ),
        ),
        Study(
            name="shift",
            question="Which noise shift is best at patch 16?",
            arms=(
                Arm(name="the source's shift", recipe="lift", shift="source"),
                *(Arm(name=f"shift {shift:g}", recipe="lift", shift=shift) for shift in (1.0, 6.0, 40.0)),
                Arm(name="derived shift", recipe="lift"),
            ),
        ),
        Study(
            name="shift-64",
            question="Which noise shift is best at patch 64, four times the source's size?",
            claim="Raised from 1 to 4 it is much better, at 5 a little worse (figure 12).",
            arms=(
                _large(name="the source's shift", shift="source"),
                *(_large(name=f"shift {shift:g}", shift=shift) for shift in (1.0, 12.0, 150.0)),
                _large(name="derived shift", shift=None),
            ),
            image_size_px=256,
            patch_size=64,
            head=HEAD_64,
        ),
        Study(
            name="recipes",
            question="Which recipe is best?",
            arms=tuple(Arm(name=recipe, recipe=recipe) for recipe in ("paper", "released", "lift")),
        ),
        *(_rates_of(recipe) for recipe in ("paper", "released", "lift")),
    )
    return {study.name: study for study in studies}


def chosen_studies(names: Sequence[str], *, paper: bool) -> list[Study]:
    """Return the studies that a call asks for, each once.

    Args:
        names: As ``require_study`` takes them.
        paper: The paper's studies too.

    Raises:
        ConfigError: None is asked for, or there is none of a name.
    """
    names = list(dict.fromkeys([*(PAPER_STUDIES if paper else ()), *names]))
    if not names:
        raise ConfigError(
            "No study is asked for",
            found="neither --study nor --paper",
            expected=f"at least one of {', '.join(named_studies())}, or a YAML file of a study",
            fix="Add --paper for the paper's own, or --study NAME.",
        )
    return [require_study(name) for name in names]


def require_study(name: str) -> Study:
    """Return a study by its name or from its YAML file.

    Raises:
        ConfigError: There is neither, or the file's settings do not make up a study.
    """
    studies = named_studies()
    if name in studies:
        return studies[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            "There is no study of that name",
            found=name,
            expected=f"one of {', '.join(studies)}, or a YAML file of a study",
            fix="Choose one of them; `l2p ablate OUT --study data --dry-run` shows the fields of one.",
        )
    return build_config(Study, load_yaml(path))


def _large(*, name: str, shift: float | Literal["source"] | None) -> Arm:
    """Return an arm at four times the source's size, on true renders, as the source cannot draw so large.

    Of recipe lift: paper makes no pictures in 300 steps even at patch 16 (score .008, chance .005), so that its shifts
    would all look alike. A quarter of the batch, against sixteen times the pixels.
    """
    return Arm(name=name, recipe="lift", images="renders", shift=shift, warm_up={"batch_size": 8})


def _rates_of(recipe: str) -> Study:
    """Return the study that tunes the rate of a recipe, the same factors for each."""
    factors = sorted(RATE_FACTORS, key=lambda factor: factor != 1)
    return Study(
        name=f"rates-{recipe}",
        question=f"Which learning rate is best for recipe {recipe}?",
        arms=tuple(Arm(name=f"rate x {factor:g}", recipe=recipe, learning_rate_factor=factor) for factor in factors),
    )
