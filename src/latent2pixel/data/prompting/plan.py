"""The plan: which prompts are to be written. A function of the taxonomy and the settings alone."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from latent2pixel.data.prompting.taxonomy import SubClass, SubClassKey, Taxonomy, apportion
from latent2pixel.errors import ConfigError

Group = TypeVar("Group", bound=tuple[str, ...])


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place in the plan, to be filled by one prompt."""

    number: int
    """From 0; its six digits are the id of the prompt that is kept."""
    major_class: str
    sub_class: SubClass
    ordinal: int
    """Number within its sub-class, from 0."""
    category: str
    kind: str
    language: str

    @property
    def key(self) -> SubClassKey:
        """Return the key of the sub-class."""
        return self.major_class, self.sub_class.name


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Places that one question asks for: of one class, type and language, so that they share a system prompt."""

    round: int
    """From 0."""
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        """Return what tells the batch from every other of the plan; its draws depend on it."""
        return f"{self.round}/{','.join(str(place.number) for place in self.places)}"


def plan_places(taxonomy: Taxonomy, *, num: int, detailed_share: float, zh_share: float, seed: int) -> list[Place]:
    """Share a number of prompts among sub-classes, categories, types and languages, exactly.

    Any beginning of the list has nearly the shares of the whole. Within a sub-class no category comes a second time
    before all came once.

    Raises:
        ConfigError: A sub-class that is to have prompts has no categories.
    """
    counts = {key: count for key, count in taxonomy.counts(num).items() if count}
    subs = taxonomy.sub_classes()
    if empty := [key for key in counts if not subs[key].categories]:
        raise ConfigError(
            f"The sub-class {'/'.join(empty[0])} has no categories",
            found=f"a share of {counts[empty[0]]} prompts, and nothing that they could be about",
            expected="categories in every sub-class with a share",
            fix="Add some, set its share to 0, or let the model add them with --set expand_to=1000.",
        )
    kinds = _labels(counts, ("detailed", "simple"), detailed_share, seed=seed)
    groups = {(*key, kind): kinds[key].count(kind) for key in counts for kind in ("detailed", "simple")}
    languages = _labels(groups, ("zh", "en"), zh_share, seed=seed)
    drawn: dict[SubClassKey, list[Place]] = {}
    for key, count in counts.items():
        categories = _categories(subs[key], count, random.Random(f"{seed}/categories/{key}"))
        drawn[key] = [
            Place(
                number=-1,
                major_class=key[0],
                sub_class=subs[key],
                ordinal=ordinal,
                category=category,
                kind=kind,
                language=languages[(*key, kind)].pop(),
            )
            for ordinal, (category, kind) in enumerate(zip(categories, kinds[key], strict=True))
        ]
    return _interleaved(drawn)


def first_batches(places: Sequence[Place], *, batch_size: int) -> list[Batch]:
    """Cut all places into batches of the first round."""
    groups: dict[tuple[str, str, str], list[Place]] = defaultdict(list)
    for place in places:
        groups[place.major_class, place.kind, place.language].append(place)
    return [
        Batch(round=0, places=tuple(group[start : start + batch_size]))
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]


def next_batches(batch: Batch, open_places: Sequence[Place], *, batch_size: int) -> Iterator[Batch]:
    """Yield batches of what one batch left open, half as large: one bad subject must not spoil all others again."""
    size = max(1, batch_size >> (batch.round + 1))
    for start in range(0, len(open_places), size):
        yield Batch(round=batch.round + 1, places=tuple(open_places[start : start + size]))


def _labels(counts: Mapping[Group, int], labels: tuple[str, str], share: float, *, seed: int) -> dict[Group, list[str]]:
    """Give each member of each group one of two labels: the first to an exact share of all, in random order."""
    result: dict[Group, list[str]] = {}
    before = done = 0
    for key, count in counts.items():
        before += count
        num_first = apportion(before, (share, 1 - share))[0] - done
        done += num_first
        order = [labels[0]] * num_first + [labels[1]] * (count - num_first)
        random.Random(f"{seed}/{labels}/{key}").shuffle(order)
        result[key] = order
    return result


def _categories(sub: SubClass, count: int, generator: random.Random) -> list[str]:
    chosen: list[str] = []
    while len(chosen) < count:
        chosen += generator.sample(sub.categories, len(sub.categories))
    return chosen[:count]


def _interleaved(drawn: dict[SubClassKey, list[Place]]) -> list[Place]:
    """Mix sub-classes evenly: the k-th of n places of one stands at (k + 1/2) / n of the whole."""
    placed = [
        ((place.ordinal + 0.5) / len(places), order, place)
        for order, places in enumerate(drawn.values())
        for place in places
    ]
    placed.sort(key=lambda item: item[:2])
    return [replace(place, number=number) for number, (_, _, place) in enumerate(placed)]
