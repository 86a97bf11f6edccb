"""From an arm to everything that decides its run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from latent2pixel.config import build_config
from latent2pixel.convert.config import ConversionConfig
from latent2pixel.convert.warm_up import WarmUp
from latent2pixel.recipes import miniature, require_recipe
from latent2pixel.train import TrainConfig
from latent2pixel.workflow.ablation.study import AblationConfig, Arm, Study

DIGITS = 12
"""Digits of a run's name: two of 48 bits are the same by chance once in 10**14."""


@dataclass(frozen=True, kw_only=True)
class ArmPlan:
    """An arm with its recipe's settings filled in; its seed is not among them."""

    arm: Arm
    conversion: ConversionConfig
    training: TrainConfig
    warm_up: WarmUp
    """Of recipe lift; each look has its own number of steps."""
    image_size_px: int

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decides the run as plain JSON values; the arm's name does not."""
        return json.loads(json.dumps(asdict(replace(self, arm=replace(self.arm, name="")))))

    @property
    def key(self) -> str:
        """Return a name of the settings: equal arms of several studies are one run.

        Made of those that differ from the defaults, so that a setting that a later version adds leaves it as it is.
        """
        parts = {name: _changed(getattr(self, name)) for name in ("arm", "conversion", "training", "warm_up")}
        parts["arm"].pop("name")
        text = json.dumps(parts | {"image_size_px": self.image_size_px}, sort_keys=True)
        return f"{self.arm.recipe}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def plan_arm(arm: Arm, study: Study, config: AblationConfig) -> ArmPlan:
    """Return an arm's settings at the miniature's size and the ablation's budget.

    Raises:
        ConfigError: There is no such recipe, or a setting of conversion or training does not exist or fit.
    """
    recipe = miniature(require_recipe(arm.recipe))
    # The shares of the miniature's 1000 steps.
    budget = {
        "steps": config.steps,
        "warmup_steps": min(recipe.training.warmup_steps, config.steps // 10),
        "cooldown_steps": config.steps * 3 // 10,
        # None on the way: an arm that is killed begins again.
        "checkpoint_every": config.steps,
        "trackers": (),
        "image_size_px": study.image_size_px,
        "learning_rate": recipe.training.learning_rate * arm.learning_rate_factor,
    }
    geometry = {"patch_size": study.patch_size, "head": recipe.conversion.head if study.head is None else study.head}
    training = build_config(TrainConfig, {**_fields_of(recipe.training), **budget, **arm.training})
    return ArmPlan(
        arm=arm,
        conversion=build_config(ConversionConfig, {**_fields_of(recipe.conversion), **geometry, **arm.conversion}),
        training=training,
        warm_up=build_config(WarmUp, {"learning_rate": WarmUp.learning_rate * arm.learning_rate_factor, **arm.warm_up}),
        image_size_px=study.image_size_px,
    )


def _fields_of(config: Any) -> Mapping[str, Any]:
    """Return the fields of a dataclass as they are, tuples among them."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _changed(config: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    found = _fields_of(config)
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(config)
    }
    return {name: value for name, value in found.items() if value != defaults[name]}
