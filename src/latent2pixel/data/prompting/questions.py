"""The questions to a writer, an auditor and an expander: instructions from templates, everything else as data."""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from latent2pixel.data.prompting.language_model import Question
from latent2pixel.data.prompting.local_checks import LENGTHS
from latent2pixel.data.prompting.plan import Batch, Place
from latent2pixel.data.prompting.replies import auditor_schema, expander_schema, writer_schema
from latent2pixel.data.prompting.settings import PromptSettings
from latent2pixel.data.prompting.taxonomy import SubClass, SubClassKey
from latent2pixel.data.prompting.templates import Templates


def writing_question(batch: Batch, *, templates: Templates, settings: PromptSettings, max_tokens: int) -> Question:
    """Ask for one prompt for each place of a batch, with directions drawn for this batch alone."""
    first = batch.places[0]
    generator = random.Random(f"{settings.seed}/directions/{batch.name}")
    directions = templates.directions(first.major_class, len(batch.places), generator=generator)
    items = [
        {"number": number, **_subject(place), "directions": drawn}
        for number, (place, drawn) in enumerate(zip(batch.places, directions, strict=True), start=1)
    ]
    return Question(
        task="write",
        system=templates.writer(
            major_class=first.major_class,
            kind=first.kind,
            language=first.language,
            target=LENGTHS[first.kind, first.language].target,
        ),
        data={"items": items},
        schema=writer_schema(len(items)),
        seed=question_seed(settings.seed, "write", batch.name),
        temperature=settings.temperature,
        max_tokens=max_tokens,
        places=tuple((place.sub_class.name, place.ordinal) for place in batch.places),
    )


def audit_question(
    written: Sequence[tuple[Place, str]], *, templates: Templates, settings: PromptSettings, name: str, max_tokens: int
) -> Question:
    """Ask for a verdict on each prompt."""
    items = [
        {
            "number": number,
            "prompt": text,
            "category": place.category,
            "kind": place.kind,
            "language": place.language,
        }
        for number, (place, text) in enumerate(written, start=1)
    ]
    return Question(
        task="audit",
        system=templates.auditor(),
        data={"items": items},
        schema=auditor_schema(len(items)),
        seed=question_seed(settings.seed, "audit", name),
        temperature=0.0,
        max_tokens=max_tokens,
    )


def expansion_question(
    key: SubClassKey,
    sub_class: SubClass,
    known: Sequence[str],
    *,
    num: int,
    attempt: int,
    templates: Templates,
    settings: PromptSettings,
    max_tokens: int,
) -> Question:
    """Ask for more categories of a sub-class; another attempt with the same ones known has another seed."""
    return Question(
        task="expand",
        system=templates.expander(),
        data={
            "major_class": key[0],
            "sub_class": key[1],
            "description": sub_class.description,
            "wanted": num,
            "there_already": list(known),
        },
        schema=expander_schema(),
        seed=question_seed(settings.seed, "expand", f"{key}/{len(known)}/{attempt}"),
        temperature=settings.temperature,
        max_tokens=max_tokens,
    )


def question_seed(seed: int, *names: str) -> int:
    """Return the seed of one question's sampling, from 0 to 2**31 - 1, which every server takes."""
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *names]).encode()).digest()[:4], "big") >> 1


def _subject(place: Place) -> dict[str, Any]:
    subject = {"category": place.category, "sub_class": place.sub_class.name}
    if place.sub_class.description:
        subject["about"] = place.sub_class.description
    if place.sub_class.text != "allowed":
        subject["text"] = place.sub_class.text
    return subject
