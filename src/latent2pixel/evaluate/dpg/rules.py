"""From a judge's answers to the score of a picture, by the official program's rules and by corrected ones.

Pure functions. The samples of a picture are the single pictures of its grid, in reading order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latent2pixel.evaluate.dpg.bench import DPGQuestion

YES = "yes"
"""The only answer that counts, to the letter (the official program's comparison)."""
Answers = Sequence[Mapping[str, str]]
"""For each sample the judge's answer by the text of the question."""


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """What a picture is worth."""

    samples: tuple[float, ...]
    """Share of questions that count as "yes", for each sample."""
    categories: tuple[tuple[str, bool], ...]
    """Category and answer of everything that enters the scores of categories."""

    @property
    def mean(self) -> float:
        """Return the mean over samples, in [0, 1]."""
        return sum(self.samples) / len(self.samples)


def official_score(questions: Mapping[int, DPGQuestion], answers: Answers) -> PictureScore | str:
    """Score a picture as the official program does, its faults included.

    Answers are set to "no" one after the other in the order of the table, by what the parents stand at by then: a
    parent that comes later still stands at the judge's answer. A parent that is not there ends the picture's score, but
    only if no parent before it is at "no". Categories take the last sample alone, as the judge answered.

    Args:
        questions: Of the picture's item by number, from ``official_items``.
        answers: Of the judge.

    Returns:
        The score, or why the program drops the picture from all means.

    Source:
        ``compute_dpg_one_sample`` and ``main`` of the official program.
    """
    samples = []
    for told in answers:
        counts = {number: told[question.text] == YES for number, question in questions.items()}
        for number, question in questions.items():
            for parent in question.parents:
                if parent == 0:
                    continue
                if parent not in counts:
                    return f"question {number} depends on question {parent}, which the program does not have"
                if not counts[parent]:
                    counts[number] = False
                    break
        samples.append(sum(counts.values()) / len(counts))
    last = answers[-1]
    categories = tuple((question.category, last[question.text] == YES) for question in questions.values())
    return PictureScore(samples=tuple(samples), categories=categories)


def corrected_score(questions: Mapping[int, DPGQuestion], answers: Answers) -> PictureScore:
    """Score a picture: a question counts if it and all that it depends on, near or far, are answered "yes".

    The order of the table does not matter; parents that are not there are no condition. Categories take every sample,
    and what counts.

    Args:
        questions: Of the picture's item by number, from ``corrected_items``.
        answers: Of the judge.
    """
    needed = {number: _with_ancestors(number, questions) for number in questions}
    samples, categories = [], []
    for told in answers:
        yes = {number for number, question in questions.items() if told[question.text] == YES}
        counts = {number: needed[number] <= yes for number in questions}
        samples.append(sum(counts.values()) / len(counts))
        categories += [(question.category, counts[number]) for number, question in questions.items()]
    return PictureScore(samples=tuple(samples), categories=tuple(categories))


def _with_ancestors(number: int, questions: Mapping[int, DPGQuestion]) -> set[int]:
    found: set[int] = set()
    waiting = [number]
    while waiting:
        one = waiting.pop()
        if one in questions and one not in found:
            found.add(one)
            waiting += questions[one].parents
    return found
