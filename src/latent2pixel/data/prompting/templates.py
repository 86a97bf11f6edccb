"""System prompts as versioned files, and the directions that vary prompts.

A template is filled once, with numbers of ours alone: what users and language models wrote never enters it. Their words
travel as JSON in the user message.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from latent2pixel.config import load_yaml
from latent2pixel.errors import ConfigError

SHIPPED = Path(__file__).with_name("templates")
VERSION = "v1"
"""Newest of the shipped versions; an older folder stays, so that a run can be repeated."""
DEFAULT_AXES = "default"
"""Key of the directions for classes that have none of their own."""


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The texts of one version."""

    version: str
    """Name of the folder, and a digest of what is in it."""
    texts: Mapping[str, str]
    """Text of each ``*.md`` file, by its name without the ending."""
    axes: Mapping[str, Mapping[str, Sequence[str]]]
    """Directions by major class, axis and choice."""

    def writer(self, *, major_class: str, kind: str, language: str, target: tuple[int, int]) -> str:
        """Return the system prompt of the writer: general rules, then those of type, language and class.

        Args:
            major_class: Classes without a file of their own have the general rules alone.
            kind: "simple" or "detailed".
            language: "en" or "zh".
            target: Fewest and most characters of a prompt.
        """
        of_kind = Template(self.texts[kind]).substitute(min_target=target[0], max_target=target[1])
        parts = [self.texts["general"], of_kind, self.texts[f"language-{language}"]]
        parts += [text for name in (f"class-{major_class}",) if (text := self.texts.get(name))]
        return "\n".join([*parts, self.texts["reply"]])

    def auditor(self) -> str:
        """Return the system prompt of the auditor."""
        return self.texts["audit"]

    def expander(self) -> str:
        """Return the system prompt that asks for more categories."""
        return self.texts["expand"]

    def directions(self, major_class: str, num: int, *, generator: random.Random) -> list[dict[str, str]]:
        """Draw directions for the prompts of one batch; no choice comes again while its axis has others.

        Returns:
            One mapping of axis to choice for each prompt.
        """
        axes = self.axes.get(major_class, self.axes[DEFAULT_AXES])
        drawn: list[dict[str, str]] = [{} for _ in range(num)]
        for axis, choices in axes.items():
            deck: list[str] = []
            for directions in drawn:
                if not deck:
                    deck = generator.sample(list(choices), len(choices))
                directions[axis] = deck.pop()
        return drawn


NEEDED = ("general", "simple", "detailed", "language-en", "language-zh", "reply", "audit", "expand")


def load_templates(folder: Path | None = None) -> Templates:
    """Load a folder of templates; None takes the shipped ones.

    Raises:
        ConfigError: A file is missing or cannot be read, or a template asks for a value that there is none of.
    """
    folder = folder or SHIPPED / VERSION
    try:
        texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(folder, str(error)) from error
    if missing := [name for name in NEEDED if name not in texts]:
        raise _unusable(folder, f"no {missing[0]}.md")
    axes = load_yaml(folder / "variation.yaml")
    if DEFAULT_AXES not in axes or not all(_is_axes(value) for value in axes.values()):
        raise _unusable(folder, "variation.yaml of another form")
    digest = hashlib.sha256(repr((sorted(texts.items()), axes)).encode()).hexdigest()[:8]
    templates = Templates(version=f"{folder.name}-{digest}", texts=texts, axes=axes)
    for kind in ("simple", "detailed"):
        try:
            templates.writer(major_class="", kind=kind, language="en", target=(1, 2))
        except (KeyError, ValueError) as error:
            raise _unusable(folder, f"{kind}.md: {error}") from error
    return templates


def _is_axes(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(choices, list) and choices for choices in value.values())
        and all(isinstance(choice, str) for choices in value.values() for choice in choices)
    )


def _unusable(folder: Path, found: str) -> ConfigError:
    return ConfigError(
        f"The templates in {folder} cannot be used",
        found=found,
        expected=f"{', '.join(f'{name}.md' for name in NEEDED)} with $min_target and $max_target alone to fill in, and "
        "variation.yaml: class, axis, list of choices",
        fix="Copy the shipped folder (latent2pixel/data/prompting/templates/v1) and edit the copy.",
    )
