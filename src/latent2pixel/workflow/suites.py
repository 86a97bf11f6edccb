"""Suites of ``l2p evaluate``: prompts, each set with the judge of its pictures. A new one is a function and a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from latent2pixel.data.prompting.openai_model import OpenAIModel
from latent2pixel.data.prompting.settings import AskSettings
from latent2pixel.data.prompts import Prompt, load_prompts
from latent2pixel.errors import ConfigError
from latent2pixel.evaluate.dpg.bench import OFFICIAL_NAME as DPG_NAME
from latent2pixel.evaluate.dpg.bench import load_dpg
from latent2pixel.evaluate.dpg.grids import NUM_SAMPLES, require_grid
from latent2pixel.evaluate.dpg.images import first_prompts, judge_grids
from latent2pixel.evaluate.dpg.worker_judge import start_mplug
from latent2pixel.evaluate.geneval.colours import load_colours
from latent2pixel.evaluate.geneval.detector import load_detector
from latent2pixel.evaluate.geneval.images import judge_images
from latent2pixel.evaluate.geneval.prompts import OFFICIAL_NAME, GenEvalPrompt, load_geneval_prompts
from latent2pixel.evaluate.geneval.six_tasks import SIX_TASKS, load_six_tasks
from latent2pixel.evaluate.pairs import ListedImages
from latent2pixel.evaluate.scores import Judgement
from latent2pixel.workflow.dpg_prompts import dpg_prompts
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.vlm_judge import VLMJudge
from latent2pixel.workflow.world_judge import judge_world
from latent2pixel.workflow.world_prompts import heldout_prompts
from latent2pixel.world.levels import require_level

Judge = Callable[[ListedImages, Path], Judgement]
"""From the pictures of one side and a folder of its own to a judgement. The folder keeps what was judged: the same call
again goes on."""
DPG_TABLE = f"dpg/{DPG_NAME}"
"""Where the table is looked for, and downloaded to."""
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is drawn, and who judges it."""

    prompts: Sequence[Prompt]
    judge: Judge | None
    """None: there is no right and wrong, the pictures are only compared."""
    close: Callable[[], object] = lambda: None
    """Called when all is judged: for a judge that is a process or a connection."""


@dataclass(frozen=True, kw_only=True)
class SuiteKind:
    """How a suite is opened, and how it is drawn unless the settings say otherwise."""

    open: Callable[[EvaluationConfig, str], Suite]
    """From settings without gaps and a torch device; raises if prompts or weights are missing: nothing is drawn yet."""
    seeds_per_prompt: int
    image_size_px: int
    num_steps: int
    num_prompts: int | None = None
    """None: all that there are."""


def open_suite(config: EvaluationConfig, *, device: str) -> Suite:
    """Open the suite that the settings name, with its judge's weights.

    Raises:
        ConfigError: No such suite or level.
        DataError: The prompts are missing or no prompts; the message holds the command that downloads them.
        SourceError: The judge's weights are missing; likewise.
        CheckpointError: They are not whole.
    """
    return _kind_of(config).open(config, device)


def with_suite_defaults(config: EvaluationConfig) -> EvaluationConfig:
    """Return the settings with the suite's own numbers where none were given.

    Raises:
        ConfigError: No such suite.
    """
    kind = _kind_of(config)
    names = ("num_prompts", "seeds_per_prompt", "image_size_px", "num_steps")
    return replace(config, **{name: getattr(kind, name) for name in names if getattr(config, name) is None})


def _kind_of(config: EvaluationConfig) -> SuiteKind:
    if config.suite not in SUITES:
        raise ConfigError(
            "There is no suite of that name",
            found=config.suite,
            expected=f"one of {', '.join(SUITES)}",
            fix="Choose another suite.",
        )
    return SUITES[config.suite]


def _world(config: EvaluationConfig, _device: str) -> Suite:
    level = require_level(config.level)
    assert config.num_prompts is not None
    prompts = heldout_prompts(level, config.num_prompts, seed=config.seed)
    return Suite(prompts=prompts, judge=partial(judge_world, level=level))


def _geneval(config: EvaluationConfig, device: str) -> Suite:
    return _six_tasks(load_geneval_prompts(Path(config.prompts or OFFICIAL_NAME)), config, device)


def _own_six_tasks(config: EvaluationConfig, device: str) -> Suite:
    return _six_tasks(load_six_tasks(), config, device)


def _six_tasks(prompts: list[GenEvalPrompt], config: EvaluationConfig, device: str) -> Suite:
    chosen = first_of_each(prompts, [prompt.task for prompt in prompts], config.num_prompts)
    assert config.seeds_per_prompt is not None
    judge = partial(
        judge_images,
        detector=load_detector(config.detector, device=device),
        colours=load_colours(config.colours, device=device),
        num_samples=config.seeds_per_prompt,
    )
    return Suite(
        prompts=[
            Prompt(id=f"{index:05d}", prompt=prompt.prompt, major_class=config.suite, sub_class=prompt.task)
            for index, prompt in enumerate(chosen)
        ],
        judge=lambda images, folder: judge(images.paths, chosen, folder),
    )


def _dpg(config: EvaluationConfig, _device: str) -> Suite:
    bench = first_prompts(load_dpg(Path(config.prompts or DPG_TABLE)), config.num_prompts)
    assert config.seeds_per_prompt is not None
    require_grid(config.seeds_per_prompt)
    score = partial(judge_grids, bench=bench, num_samples=config.seeds_per_prompt, side_px=config.image_size_px)
    prompts = dpg_prompts(bench)
    if config.dpg_judge == "mplug":
        mplug = start_mplug(
            Path(config.mplug_python),
            Path(config.mplug_weights),
            backend=config.mplug_backend,
            device=config.mplug_device,
        )
        return Suite(prompts=prompts, judge=lambda listed, folder: score(listed, folder, mplug), close=mplug.close)
    model = _open_vlm(config)

    def ask(listed: ListedImages, folder: Path) -> Judgement:
        with VLMJudge(model(), folder / "replies.jsonl") as judge:
            return score(listed, folder, judge)

    return Suite(prompts=prompts, judge=ask)


def _open_vlm(config: EvaluationConfig) -> Callable[[], OpenAIModel]:
    """Return what opens the model: each side has connections and replies of its own."""
    if config.vlm_model is None:
        raise ConfigError(
            "DPG-Bench has no model to ask",
            found="dpg_judge = vlm, vlm_model = None",
            expected="the name of a model that sees pictures, and vlm_base_url where it is not OpenAI's",
            fix="Set vlm_model, or take the official judge with dpg_judge=mplug.",
        )
    timeout_s = AskSettings().timeout_s
    opens = partial(OpenAIModel, config.vlm_model, base_url=config.vlm_base_url, timeout_s=timeout_s)
    opens()  # a missing key or package is told before anything is drawn
    return opens


def _own_prompts(config: EvaluationConfig, _device: str) -> Suite:
    # Two folders of images need no prompts; who draws without any is told so.
    prompts = [] if config.prompts is None else load_prompts(Path(config.prompts))
    return Suite(prompts=prompts[: config.num_prompts], judge=None)


def first_of_each(values: Sequence[Value], groups: Sequence[str], number: int | None) -> list[Value]:
    """Return so many values in their order, as many of each group as of any other as far as there are; None: all."""
    if number is None:
        return list(values)
    places: dict[str, int] = {}
    turns = []
    for index, group in enumerate(groups):
        places[group] = places.get(group, -1) + 1
        turns.append((places[group], index))
    return [values[index] for index in sorted(index for _, index in sorted(turns)[:number])]


SUITES: dict[str, SuiteKind] = {
    "world": SuiteKind(open=_world, num_prompts=120, seeds_per_prompt=2, image_size_px=64, num_steps=16),
    "geneval": SuiteKind(open=_geneval, seeds_per_prompt=4, image_size_px=1024, num_steps=30),
    SIX_TASKS: SuiteKind(open=_own_six_tasks, seeds_per_prompt=4, image_size_px=1024, num_steps=30),
    "dpg": SuiteKind(open=_dpg, seeds_per_prompt=NUM_SAMPLES, image_size_px=1024, num_steps=30),
    "prompts": SuiteKind(open=_own_prompts, seeds_per_prompt=2, image_size_px=1024, num_steps=30),
}
"""Name -> suite. The world takes what its shipped source was made for; the others what ``l2p data synthesize`` takes,
and as many pictures of a prompt as the benchmark's protocol."""
