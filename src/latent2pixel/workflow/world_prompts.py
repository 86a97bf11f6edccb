"""Prompts of the miniature world by the data engine: its captions, without a language model and without a network."""

import json
from pathlib import Path

from latent2pixel.data.prompting.folder import PromptsReport
from latent2pixel.data.prompting.language_model import Question, QuestionRefused, Reply
from latent2pixel.data.prompting.settings import AskSettings, PromptSettings
from latent2pixel.data.prompting.taxonomy import MajorClass, SubClass, Taxonomy
from latent2pixel.data.prompting.templates import load_templates
from latent2pixel.data.prompting.write import write_prompts
from latent2pixel.data.prompts import Prompt
from latent2pixel.world.captions import TASKS, draw_captions, heldout_captions
from latent2pixel.world.levels import Level, require_level

MAJOR_CLASS = "miniature"


class WorldWriter:
    """Answers the writer's questions with training captions: the k-th of a task is the k-th that the world draws.

    Args:
        level: Level of the world.
        num: Captions that may be asked for.
        seed: Seed of the draw.
    """

    def __init__(self, level: Level, *, num: int, seed: int) -> None:
        # Whole turns through the tasks, so that each task has as many as it may be asked for.
        drawn = draw_captions(level, "train", (num // len(TASKS) + 1) * len(TASKS), seed=seed)
        self._texts = {task: [caption.text for caption in drawn if caption.task == task] for task in TASKS}
        self._level, self._seed = level, seed

    @property
    def name(self) -> str:
        """Return a name that tells levels and seeds apart."""
        return f"world {self._level.name} {self._seed}"

    async def ask(self, question: Question) -> Reply:
        """Return the captions of a writer's question."""
        if question.task != "write":
            raise QuestionRefused(f"the world writes captions, and cannot {question.task}")
        prompts = [
            {"number": number, "prompt": self._texts[task][ordinal]}
            for number, (task, ordinal) in enumerate(question.places, start=1)
        ]
        return Reply(text=json.dumps({"prompts": prompts}), tokens_in=0, tokens_out=0)

    async def close(self) -> None:
        """Nothing is open."""


def world_taxonomy() -> Taxonomy:
    """Return the world's classes: one for each of GenEval's task types, all equal."""
    subs = tuple(SubClass(name=task, categories=(task.replace("_", " "),)) for task in TASKS)
    return Taxonomy(version=1, classes=(MajorClass(name=MAJOR_CLASS, sub_classes=subs),))


def heldout_prompts(level: Level, num: int, *, seed: int) -> list[Prompt]:
    """Return held-out captions of the world as prompts, as many of each task as of any other.

    Args:
        level: Level of the world.
        num: Captions.
        seed: Seed of the draw.
    """
    return [
        Prompt(id=f"{index:06d}", prompt=caption.text, major_class=MAJOR_CLASS, sub_class=caption.task)
        for index, caption in enumerate(heldout_captions(level, num, seed=seed))
    ]


def write_world_prompts(folder: Path, *, level: str, num: int, seed: int) -> PromptsReport:
    """Write a folder of training captions of the world that pass the filter, as many of each task as of any other.

    Args:
        folder: See ``write_prompts``.
        level: Name of the level.
        num: Captions; a level with fewer of a task leaves places empty.
        seed: Seed of the draw.

    Raises:
        ConfigError: No such level.
        StateError: The folder holds other prompts.
    """
    return write_prompts(
        folder,
        taxonomy=world_taxonomy(),
        templates=load_templates(),
        settings=PromptSettings(
            num=num,
            seed=seed,
            detailed_share=0,
            zh_share=0,
            # Captions are short, alike by design, and true by construction.
            judge=False,
            check_openers=False,
            check_lengths=False,
            near_duplicates=0,
        ),
        asking=AskSettings(rounds=1),
        writer=WorldWriter(require_level(level), num=num, seed=seed),
        backend="world",
    )
