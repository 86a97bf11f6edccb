"""Where a run's numbers and pictures are logged: the trackers of accelerate.

Shape letters: C channels (3, sRGB), H height, W width.
"""

import importlib.util
from collections.abc import Sequence

from accelerate import Accelerator
from torch import Tensor

from latent2pixel.errors import ConfigError
from latent2pixel.io.images import bytes_of

PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
"""Tracker -> Python package that it needs."""
PROJECT = "latent2pixel"


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers are known and installed.

    Raises:
        ConfigError: If one is not.
    """
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(
                "There is no tracker of that name",
                found=repr(name),
                expected=f"some of {', '.join(PACKAGES)}",
                fix="Correct the setting trackers.",
            )
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"The tracker {name} is not installed",
                found=f"no package {PACKAGES[name]}",
                expected="an installed package for every tracker",
                fix=f"pip install {PACKAGES[name]}, or leave it out of the setting trackers.",
            )


def log_picture(accelerator: Accelerator, name: str, picture_CHW: Tensor, *, step: int) -> None:
    """Log one picture in [-1, 1] with every tracker of the run."""
    picture_HWC = bytes_of(picture_CHW)
    for tracker in accelerator.trackers:
        if tracker.name == "trackio":
            import trackio

            tracker.log({name: trackio.Image(picture_HWC)}, step=step)
        else:
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: picture_HWC[None]}, step=step, **options)


def finish_trackers(accelerator: Accelerator) -> None:
    """Close all trackers. ``Accelerator.end_training`` would part the processes too, which have a model to save."""
    for tracker in accelerator.trackers:
        tracker.finish()
