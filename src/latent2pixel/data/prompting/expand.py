"""More fine categories by a language model: as many in each sub-class as its share says, no two alike."""

import asyncio
from typing import Any

from latent2pixel.data.prompting.asking import Asker
from latent2pixel.data.prompting.near_duplicates import near_duplicates
from latent2pixel.data.prompting.questions import expansion_question
from latent2pixel.data.prompting.replies import read_categories
from latent2pixel.data.prompting.settings import PromptSettings
from latent2pixel.data.prompting.taxonomy import SubClass, SubClassKey, Taxonomy, category_key
from latent2pixel.data.prompting.templates import Templates
from latent2pixel.errors import ConfigError, EndpointError

MAX_AT_ONCE = 50
"""Categories asked for at a time: beyond that models repeat themselves."""
SURPLUS = 1.2
"""Asked for over wanted: some are duplicates."""
MAX_IDLE = 3
"""Questions about one sub-class in succession that bring nothing new, after which it counts as exhausted."""
ALIKE = 0.85
"""Similarity from which two categories are one. They are two to six words, where a changed word moves it far: "old oak
tree" and "oak tree" have 0.88, "oak tree" and "fig tree" 0.3."""


async def expand_taxonomy(
    taxonomy: Taxonomy,
    *,
    total: int,
    asker: Asker,
    templates: Templates,
    settings: PromptSettings,
    encoder: Any,
    max_tokens: int,
) -> Taxonomy:
    """Add categories until there are ``total``, shared among the sub-classes exactly as prompts are.

    Args:
        taxonomy: Its categories stay, first.
        total: Categories wanted.
        asker: The writer.
        templates: System prompts.
        settings: Seed and temperature.
        encoder: From texts to vectors, for categories that are nearly alike.
        max_tokens: Longest reply.

    Raises:
        ConfigError: A sub-class has more categories already than its share, or the model has no more to give.
        EndpointError: The model does not answer.
    """
    wanted = taxonomy.counts(total)
    subs = taxonomy.sub_classes()
    if too_many := [key for key, sub in subs.items() if len(sub.categories) > wanted[key]]:
        key = too_many[0]
        raise ConfigError(
            f"{total} categories are too few for exact shares",
            found=f"{len(subs[key].categories)} categories in {'/'.join(key)} already",
            expected=f"at most {wanted[key]}, its share of {total}",
            fix="Raise expand_to, raise the share of that sub-class, or remove some of its categories.",
        )

    async def fill(key: SubClassKey) -> list[str]:
        return await _fill(
            key,
            subs[key],
            wanted[key],
            asker,
            templates=templates,
            settings=settings,
            encoder=encoder,
            limit=max_tokens,
        )

    filled = await asyncio.gather(*(fill(key) for key in subs), return_exceptions=True)
    if failed := [result for result in filled if isinstance(result, BaseException)]:
        raise failed[0]
    categories = {key: names for key, names in zip(subs, filled, strict=True) if isinstance(names, list)}
    return taxonomy.with_categories(categories)


async def _fill(
    key: SubClassKey,
    sub_class: SubClass,
    wanted: int,
    asker: Asker,
    *,
    templates: Templates,
    settings: PromptSettings,
    encoder: Any,
    limit: int,
) -> list[str]:
    names = list(sub_class.categories)
    idle = 0
    while len(names) < wanted:
        missing = wanted - len(names)
        question = expansion_question(
            key,
            sub_class,
            names,
            num=min(int(missing * SURPLUS) + 1, MAX_AT_ONCE),
            templates=templates,
            attempt=idle,
            settings=settings,
            max_tokens=limit,
        )
        outcome = await asker.ask(question, read_categories)
        if outcome.is_unanswered:
            raise EndpointError(
                f"The categories of {'/'.join(key)} could not be got",
                found=outcome.reason,
                expected="a reply",
                fix="Check the server; the same command goes on, and pays nothing twice.",
            )
        gained = _distinct(names, outcome.result or [], encoder)[:missing]
        names += gained
        idle = 0 if gained else idle + 1
        if idle == MAX_IDLE:
            raise ConfigError(
                f"The model has no more categories for {'/'.join(key)}",
                found=f"{len(names)} distinct ones; the last {MAX_IDLE} replies brought none. {outcome.reason}",
                expected=f"{wanted}",
                fix="Lower expand_to or that sub-class's share, describe it more widely, or add some by hand.",
            )
    return names


def _distinct(known: list[str], new: list[str], encoder: Any) -> list[str]:
    """Return the new names that are like none before them."""
    seen = {category_key(name) for name in known}
    fresh: dict[str, str] = {}
    for name in new:
        if (name_key := category_key(name)) and name_key not in seen:
            fresh.setdefault(name_key, name)
    alike = near_duplicates(
        [(f"known {index}", name) for index, name in enumerate(known)],
        list(fresh.items()),
        encoder=encoder,
        threshold=ALIKE,
    )
    return [name for name_key, name in fresh.items() if name_key not in alike]
