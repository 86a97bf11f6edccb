"""The networks that an evaluation measures with, opened before anything is drawn: a missing one costs no picture."""

from dataclasses import dataclass
from pathlib import Path

import torch

from latent2pixel.errors import ConfigError
from latent2pixel.evaluate.clip_score import ClipScorer, load_clip
from latent2pixel.evaluate.diversity import ImageDistance
from latent2pixel.evaluate.features import LOADERS, FeatureNetwork
from latent2pixel.evaluate.fg_clip import load_fg_clip
from latent2pixel.io.pipeline_folder import read_json
from latent2pixel.workflow.evaluation_config import EvaluationConfig


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What ``compare_folders`` is given."""

    network: FeatureNetwork
    clip: ClipScorer | None
    distance: ImageDistance | None


def open_networks(config: EvaluationConfig, *, device: torch.device | str) -> Networks:
    """Open the networks that the settings name.

    Raises:
        ConfigError: No such kind of network, or its file is missing; the message holds the command that downloads it.
        CheckpointError: A file is damaged or something else.
    """
    if config.network not in LOADERS:
        raise ConfigError(
            "There is no kind of network of that name",
            found=f"network = {config.network}",
            expected=f"one of {', '.join(LOADERS)}",
            fix="Set network to one of them, and network_path to its file or folder.",
        )
    needs_path = config.network != "filters"
    if needs_path != (config.network_path is not None):
        raise ConfigError(
            "The network and its path do not fit",
            found=f"network = {config.network}, network_path = {config.network_path}",
            expected="a network_path for every network but the filters, which are part of this program",
            fix="Set network_path to its file or folder; if that is missing, the next message says how to get it.",
        )
    path = None if config.network_path is None else Path(config.network_path)
    return Networks(
        network=LOADERS[config.network](path, device=device),
        clip=None if config.clip is None else _open_clip(Path(config.clip), device=device),
        distance=None if config.distance is None else _open_distance(Path(config.distance), device=device),
    )


def _open_clip(folder: Path, *, device: torch.device | str) -> ClipScorer:
    path = folder / "config.json"
    is_fg_clip = path.is_file() and read_json(path).get("model_type") == "fgclip2"
    return (load_fg_clip if is_fg_clip else load_clip)(folder, device=device)


def _open_distance(path: Path, *, device: torch.device | str) -> ImageDistance:
    from latent2pixel.train.perceptual import load_exported  # the one file of training that is needed, if at all

    distance = load_exported(path, device=device)
    return lambda one_BCHW, other_BCHW: distance(one_BCHW.to(device), other_BCHW.to(device)).cpu()
