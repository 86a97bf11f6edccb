"""From plain mappings to frozen dataclasses and back."""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from latent2pixel.errors import ConfigError
from latent2pixel.io.new_folder import write_file

Config = TypeVar("Config")


def build_config(config_class: type[Config], settings: Mapping[str, Any]) -> Config:
    """Build a frozen dataclass from a mapping, strictly.

    Args:
        config_class: Dataclass; its fields may be dataclasses too, also optional ones and in tuples.
        settings: Field names and values, such as a parsed YAML file.

    Raises:
        ConfigError: A key does not exist (the nearest one is named), is missing, or has a value of the wrong type.
    """
    _require_known_keys(config_class, settings, path="")
    try:
        return TypeAdapter(config_class).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"The setting {'.'.join(map(str, first['loc'])) or config_class.__name__} does not fit",
            found=repr(first["input"]),
            expected=first["msg"],
            fix="Correct it in the YAML file, or with --set KEY=VALUE.",
        ) from error


def apply_overrides(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of nested settings with ``a.b=value`` overrides applied; values are read as YAML.

    Raises:
        ConfigError: An override has no "=", or leads through a value that is no mapping.
    """
    result: dict[str, Any] = json.loads(json.dumps(settings))
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path:
            raise ConfigError(
                "An override is not of the form KEY=VALUE",
                found=repr(override),
                expected="such as steps=100 or train.steps=100",
                fix="Write --set KEY=VALUE, without spaces around the equals sign.",
            )
        *parents, last = path.split(".")
        level = result
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise ConfigError(
                    "An override leads into a setting that has no parts",
                    found=repr(override),
                    expected=f"{parent} without a dot behind it",
                    fix=f"Write --set {parent}=VALUE.",
                )
        level[last] = _parse_yaml(text, where=f"--set {override}")
    return result


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: The file cannot be read, is no YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "A settings file cannot be read",
            found=f"{path}: {error}",
            expected="a YAML file",
            fix="Check the path.",
        ) from error
    loaded = _parse_yaml(text, where=str(path))
    if not isinstance(loaded, dict):
        raise ConfigError(
            "A settings file holds no settings",
            found=f"{path}: {type(loaded).__name__}",
            expected="lines of the form key: value",
            fix="Compare it with a run.yaml.",
        )
    return loaded


def dump_yaml(config: Any, path: Path) -> None:
    """Write a dataclass as a complete YAML file that ``build_config(..., load_yaml(path))`` reads back."""
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    write_file(path, yaml.safe_dump(settings, sort_keys=False))


class _Loader(yaml.SafeLoader):
    """Reads ``no``, ``off``, ``yes`` and ``on`` as text, as YAML 1.2 does: they are names of settings' values here."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_TRUE_OR_FALSE = re.compile("^(true|True|TRUE|false|False|FALSE)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _TRUE_OR_FALSE, list("tTfF"))


def _parse_yaml(text: str, *, where: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)  # a safe loader
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{where} is no valid YAML",
            found=" ".join(str(error).split()),
            expected="YAML",
            fix="Correct the line that is named.",
        ) from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-4, as everyone writes it, as text.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _require_known_keys(config_class: type, settings: Mapping[str, Any], *, path: str) -> None:
    prefix = f"{path}." if path else ""
    known = {field.name for field in dataclasses.fields(config_class)}
    types = get_type_hints(config_class)
    for key, value in settings.items():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ConfigError(
                "There is no setting of that name",
                found=f"{prefix}{key}",
                expected=f"one of {', '.join(prefix + name for name in sorted(known))}",
                fix=f"Did you mean {prefix}{nearest[0]}?" if nearest else "Remove it.",
            )
        _require_fitting_value(types[key], value, path=f"{prefix}{key}")


def _require_fitting_value(annotation: Any, value: Any, *, path: str) -> None:
    """Check what pydantic lets pass in plain dataclasses: unknown keys at any depth, and truth values as numbers."""
    allowed = _types_in(annotation)
    if isinstance(value, bool) and bool not in allowed and {int, float} & allowed:
        raise ConfigError(
            f"The setting {path} does not fit",
            found=repr(value),
            expected="a number",
            fix="Correct it in the YAML file, or with --set KEY=VALUE.",
        )
    nested = [kind for kind in allowed if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    if len(nested) != 1:
        return
    items = [(path, value)]
    if isinstance(value, Sequence):
        items = [(f"{path}.{index}", item) for index, item in enumerate(value)]
    for item_path, item in items:
        if isinstance(item, Mapping):
            _require_known_keys(nested[0], item, path=item_path)


def _types_in(annotation: Any) -> set[Any]:
    """Return an annotation's plain types: ``tuple[X, ...] | None`` gives tuple's item X and NoneType."""
    arguments = get_args(annotation)
    if not arguments:
        return {annotation}
    return {kind for argument in arguments for kind in _types_in(argument)}
