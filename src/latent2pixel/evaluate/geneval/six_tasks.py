"""Our own prompts of GenEval's six tasks, in its format: they ship with the package, and make another benchmark.

Same tasks, clauses and scoring, other sentences and other draws, so a score on them is never "GenEval". Every class,
colour, relation and number comes about equally often, which the official draws do not promise.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from latent2pixel.evaluate.geneval.names import CLASSES, COLOURS, RELATIONS
from latent2pixel.evaluate.geneval.prompts import Clause, GenEvalPrompt, load_geneval_prompts
from latent2pixel.seeds import step_generator

SIX_TASKS = "l2p-six-tasks"
"""Name of the set, in the keys of results."""
FILE = Path(__file__).parent / "prompts" / f"{SIX_TASKS}.jsonl"
SEED = 1
"""Of the shipped file; any other makes a set of its own, which needs a name of its own."""
NUM_PROMPTS = 100
"""In each task but the first, which has one a class: about GenEval's size, so about its standard error."""
NUMBERS = {2: "two", 3: "three", 4: "four"}
"""GenEval's counts: detectors and models both fail above."""
PLURALS = {"person": "people", "sheep": "sheep", "knife": "knives", "computer mouse": "computer mice"}
PARTS = {"skis": "pair of", "scissors": "pair of", "broccoli": "head of"}
"""Words that cannot stand alone behind "a", or be counted."""
PLACES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
COLOURED = tuple(name for name in CLASSES if name not in ("person", "orange"))
"""A green person is no fair wish, and an orange orange says a word twice."""

Value = TypeVar("Value")
Other = TypeVar("Other")


def load_six_tasks() -> list[GenEvalPrompt]:
    """Return the shipped prompts."""
    return load_geneval_prompts(FILE)


def make_six_tasks(seed: int) -> list[GenEvalPrompt]:
    """Return 580 distinct prompts, 80 of "single_object" and 100 of each other task."""
    prompts = [
        _prompt("single_object", f"A photograph with {noun(name)}.", Clause(class_name=name, count=1))
        for name in CLASSES
    ]
    makers: list[Callable[[torch.Generator], list[GenEvalPrompt]]] = [
        _pairs,
        _counts,
        _colours,
        _positions,
        _attributes,
    ]
    for number, make in enumerate(makers):
        prompts += make(step_generator(seed, number))
    return prompts


def noun(name: str, colour: str | None = None) -> str:
    """Return a class with its article and perhaps a colour: "an orange bench", "a pair of red skis"."""
    words = [PARTS.get(name), colour, name]
    phrase = " ".join(word for word in words if word is not None)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(name: str) -> str:
    """Return the plural of a class that can be counted."""
    return PLURALS.get(name) or f"{name}{'es' if name.endswith(('s', 'ch', 'sh')) else 's'}"


def _pairs(generator: torch.Generator) -> list[GenEvalPrompt]:
    return [
        _prompt(
            "two_object",
            f"{noun(one).capitalize()} and {noun(other)} in the same photograph.",
            Clause(class_name=one, count=1),
            Clause(class_name=other, count=1),
        )
        for one, other in _deal_pairs(CLASSES, CLASSES, generator)
    ]


def _counts(generator: torch.Generator) -> list[GenEvalPrompt]:
    names = [name for name in CLASSES if name not in PARTS]
    return [
        _prompt(
            "counting",
            f"Exactly {NUMBERS[number]} {plural(name)} in one photograph.",
            Clause(class_name=name, count=number),
            exclude=(Clause(class_name=name, count=number + 1),),
        )
        for name, number in _deal_pairs(names, list(NUMBERS), generator)
    ]


def _colours(generator: torch.Generator) -> list[GenEvalPrompt]:
    return [
        _prompt("colors", f"A photograph with {noun(name, colour)}.", Clause(class_name=name, count=1, colour=colour))
        for name, colour in _deal_pairs(COLOURED, COLOURS, generator)
    ]


def _positions(generator: torch.Generator) -> list[GenEvalPrompt]:
    pairs, relations = _deal_pairs(CLASSES, CLASSES, generator), _deal(RELATIONS, generator)
    return [
        _prompt(
            "position",
            f"A photograph with {noun(one)} {PLACES[relation]} {noun(other)}.",
            Clause(class_name=other, count=1),
            Clause(class_name=one, count=1, position=(relation, 0)),
        )
        for (one, other), relation in zip(pairs, relations, strict=True)
    ]


def _attributes(generator: torch.Generator) -> list[GenEvalPrompt]:
    names = _deal_pairs(COLOURED, COLOURED, generator)
    colours = _deal_pairs(COLOURS, COLOURS, generator, distinct=False)
    return [
        _prompt(
            "color_attr",
            f"A photograph with {noun(one, one_colour)} and {noun(other, other_colour)}.",
            Clause(class_name=one, count=1, colour=one_colour),
            Clause(class_name=other, count=1, colour=other_colour),
        )
        for (one, other), (one_colour, other_colour) in zip(names, colours, strict=True)
    ]


def _deal(values: Sequence[Value], generator: torch.Generator) -> list[Value]:
    """Return ``NUM_PROMPTS`` values: all of them in a random order, then all again, until there are enough."""
    dealt: list[Value] = []
    while len(dealt) < NUM_PROMPTS:
        dealt += [values[index] for index in torch.randperm(len(values), generator=generator).tolist()]
    return dealt[:NUM_PROMPTS]


def _deal_pairs(
    values: Sequence[Value], others: Sequence[Other], generator: torch.Generator, *, distinct: bool = True
) -> list[tuple[Value, Other]]:
    """Return ``NUM_PROMPTS`` pairs of two different values, distinct ones if so wanted; swapping keeps the counts."""
    one, other = _deal(values, generator), _deal(others, generator)
    while True:
        pairs = list(zip(one, other, strict=True))
        bad = [index for index, pair in enumerate(pairs) if pair[0] == pair[1] or (distinct and pair in pairs[:index])]
        if not bad:
            return pairs
        for index in bad:
            place = int(torch.randint(NUM_PROMPTS, (), generator=generator))
            other[index], other[place] = other[place], other[index]


def _prompt(task: str, text: str, *include: Clause, exclude: tuple[Clause, ...] = ()) -> GenEvalPrompt:
    return GenEvalPrompt(task=task, prompt=text, include=include, exclude=exclude)
