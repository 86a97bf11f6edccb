"""What prompts are about: major classes, sub-classes and fine categories, and how counts are shared among them."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from latent2pixel.config import load_yaml
from latent2pixel.errors import ConfigError
from latent2pixel.io.new_folder import write_file

SHIPPED = Path(__file__).with_name("taxonomy.yaml")
"""Our own taxonomy, with more than 1000 fine categories."""

Text = Literal["allowed", "any", "latin", "han"]
"""What a prompt must say in double quotes: nothing it must, some text, text in Latin or in Chinese script."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,60}$")]
Category = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
"""200 characters are a sentence; a longer one is no category."""
SubClassKey = tuple[str, str]
"""Name of the major class, name of the sub-class."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SubClass(_Part):
    """A sub-class and its fine categories."""

    name: Name
    share: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight among the sub-classes of its class."""
    description: str = Field(default="", max_length=500)
    """What belongs here, one sentence; language models are told it as data."""
    text: Text = "allowed"
    """What a prompt must say in double quotes."""
    categories: tuple[Category, ...] = ()
    """Fine categories, in English, no two alike."""

    @model_validator(mode="after")
    def _no_two_alike(self) -> "SubClass":
        seen: dict[str, str] = {}
        for category in self.categories:
            if (key := category_key(category)) in seen:
                raise ValueError(f"{seen[key]!r} and {category!r} are the same category")
            seen[key] = category
        return self


class MajorClass(_Part):
    """A major class and its sub-classes."""

    name: Name
    share: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight among the major classes."""
    sub_classes: tuple[SubClass, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_and_shares(self) -> "MajorClass":
        _require_names_and_shares(self.sub_classes)
        return self


class Taxonomy(_Part):
    """All classes.

    Source:
        L2P (arXiv 2605.12013), section 3.2: 4 major classes, 17 sub-classes, more than 1000 fine categories. Its
        appendix lists 20 sub-classes, as the shipped file does.
    """

    version: Literal[1]
    """Of the file format."""
    classes: tuple[MajorClass, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_and_shares(self) -> "Taxonomy":
        _require_names_and_shares(self.classes)
        return self

    def sub_classes(self) -> dict[SubClassKey, SubClass]:
        """Return every sub-class by its key, in the file's order."""
        return {(major.name, sub.name): sub for major in self.classes for sub in major.sub_classes}

    def num_categories(self) -> int:
        """Return the number of fine categories."""
        return sum(len(sub.categories) for sub in self.sub_classes().values())

    def counts(self, total: int) -> dict[SubClassKey, int]:
        """Share a total among the sub-classes: exact for the classes first, then within each."""
        counts = {}
        for major, of_major in zip(self.classes, apportion(total, [m.share for m in self.classes]), strict=True):
            shares = [sub.share for sub in major.sub_classes]
            for sub, count in zip(major.sub_classes, apportion(of_major, shares), strict=True):
                counts[major.name, sub.name] = count
        return counts

    def with_categories(self, categories: Mapping[SubClassKey, Sequence[str]]) -> "Taxonomy":
        """Return a copy whose sub-classes have these categories."""
        classes = []
        for major in self.classes:
            subs = tuple(
                sub.model_copy(update={"categories": tuple(categories[major.name, sub.name])})
                for sub in major.sub_classes
            )
            classes.append(major.model_copy(update={"sub_classes": subs}))
        return Taxonomy.model_validate(self.model_copy(update={"classes": tuple(classes)}).model_dump())

    def as_yaml(self) -> str:
        """Return the text of a file that ``load_taxonomy`` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def load_taxonomy(path: Path = SHIPPED) -> Taxonomy:
    """Load and check a taxonomy.

    Raises:
        ConfigError: The file cannot be read, or does not fit the format; the place is named.
    """
    try:
        return Taxonomy.model_validate(load_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        expected = first["msg"]
        if first["type"] == "extra_forbidden":
            known = {field for part in (SubClass, MajorClass, Taxonomy) for field in part.model_fields}
            nearest = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.0)
            expected = f"a field of that place; the nearest name is {nearest[0]}"
        raise ConfigError(
            f"The taxonomy {path} does not fit at {place}",
            found=repr(first["input"])[:200],
            expected=expected,
            fix="Correct that place; `l2p data taxonomy FILE` writes an example and checks a file.",
        ) from error


def save_taxonomy(path: Path, taxonomy: Taxonomy) -> None:
    """Write a taxonomy as YAML."""
    write_file(path, taxonomy.as_yaml())


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Share a total by weights, exactly: every count is less than one away from its quota, and all sum to the total.

    Source:
        Hamilton's method (largest remainder); ties go to the earlier one.
    """
    # Fractions, not floats: three shares of 0.1 must be three equal shares.
    weights = [Fraction(share).limit_denominator(10**9) for share in shares]
    quotas = [total * weight / sum(weights) for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: (counts[index] - quotas[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def category_key(category: str) -> str:
    """Return what two categories have in common that differ in case, punctuation or a plural s alone."""
    words = re.findall(r"\w+", category.casefold())
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words)


def _require_names_and_shares(parts: Iterable[SubClass | MajorClass]) -> None:
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the name {twice[0]!r} comes twice")
    if not any(part.share > 0 for part in parts):
        raise ValueError("every share is zero")
