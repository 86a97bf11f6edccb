"""Settings of ``l2p evaluate``."""

from dataclasses import dataclass
from typing import Literal

from latent2pixel.errors import ConfigError
from latent2pixel.evaluate.geneval.colours import CLASSIFIER
from latent2pixel.evaluate.geneval.detector import DETECTOR


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is drawn, who judges it, and what else is measured."""

    suite: str = "world"
    """Set of prompts with their judge; ``SUITES`` in ``suites.py`` lists them."""
    prompts: str | None = None
    """File of the prompts. For "geneval" in its own format; None takes ``evaluation_metadata.jsonl`` where the command
    runs. For "dpg" its table, with the prompts beside it; None takes ``dpg/dpg_bench.csv``. For "prompts" JSON lines as
    ``l2p data prompts`` writes them. Other suites bring theirs."""
    level: str = "easy"
    """Level of the world."""
    num_prompts: int | None = None
    """Prompts, as many of each task as of any other; None takes the suite's own number."""
    seeds_per_prompt: int | None = None
    """Pictures of each; None takes the suite's own number."""
    image_size_px: int | None = None
    """Width and height; None takes 64 for the world, 1024 for others."""
    num_steps: int | None = None
    """Steps of the pipelines' schedulers; None takes 16 for the world, 30 for others."""
    guidance_scale: float = 2.0
    """Guidance of all pipelines."""
    dtype: str | None = None
    """Torch dtype of all pipelines; None takes the stored one."""
    seed: int = 0
    """Of captions, pictures, crops and resamples."""
    runs: int = 1
    """Whole evaluations with the seeds ``seed``, ``seed + 1`` and so on: mean and standard deviation over them."""
    detector: str = DETECTOR
    """GenEval's detector: a folder, or the id of a downloaded repository."""
    colours: str = CLASSIFIER
    """GenEval's CLIP for colours, likewise."""
    dpg_judge: Literal["mplug", "vlm"] = "mplug"
    """DPG-Bench's judge: its own, or a vision-language model behind an endpoint, which is another benchmark."""
    mplug_python: str = "mplug-env/bin/python"
    """Interpreter of mPLUG's environment; docs/dpg-bench.md says how to make it."""
    mplug_weights: str = "mplug-weights"
    """Folder of mPLUG's weights."""
    mplug_backend: Literal["modelscope", "dpg_evaluator"] = "modelscope"
    """Package that runs mPLUG in its environment."""
    mplug_device: str = "cpu"
    """Device of mPLUG, as its package calls it."""
    vlm_model: str | None = None
    """Name of the vision-language model at its endpoint."""
    vlm_base_url: str | None = None
    """Address of the endpoint, such as http://localhost:8000/v1; None takes OpenAI's. The key is in OPENAI_API_KEY."""
    network: str = "filters"
    """Features of FID, KID and diversity: "filters", "inception", "transformer" (CLIP, DINOv2) or "exported"."""
    network_path: str | None = None
    """File or folder of the network; the filters need none."""
    clip: str | None = None
    """Folder of a CLIP, or of an FG-CLIP 2 for long prompts, for the CLIP score; None leaves it out."""
    distance: str | None = None
    """Exported distance of two images, such as LPIPS (.pt2), for diversity and for the worst and best pairs; None takes
    the network's features for the pairs."""
    num_crops: int = 0
    """Crops of each image for FID-patch and patch MMD; 0 leaves both out, published is 20."""
    crop_px: int | None = None
    """Side of a crop; None takes 299, or half of the shortest side if that is less."""
    patch_size: int | None = None
    """Pixels along a patch for the grid ratio; None asks the pixel model, and leaves the ratio out for folders."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "seeds_per_prompt", "image_size_px", "num_steps", "runs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    "A setting of the evaluation is too small",
                    found=f"{name} = {value}",
                    expected="1 or more",
                    fix=f"Set {name} higher.",
                )
