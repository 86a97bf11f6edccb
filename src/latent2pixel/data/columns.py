"""Columns for records whose fields nobody has declared."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Kind = Literal["string", "int64", "float64", "bool"]
"""Types of columns, as ``datasets.Value`` names them."""
LEFT_OUT = ("file_name", "image", "mask", "pixels")
"""Fields that a packed set says in another way, or does not need."""
ALWAYS_FLOAT = ("guidance", "weight")
"""A set whose values happen to be whole must have the same columns as the others."""
INT64 = range(-(2**63), 2**63)


def columns_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Kind]:
    """Return a type for each field, in order of first appearance, that holds its value in every record.

    Fields of several types, and nested ones, become text: JSON.
    """
    found: dict[str, set[Kind]] = {}
    for record in records:
        for name, value in record.items():
            if name not in LEFT_OUT and value is not None:
                found.setdefault(name, set()).add(_kind(value))
    return {name: _common(name, kinds) for name, kinds in found.items()}


def value_of(value: Any, kind: Kind) -> Any:
    """Return a field's value as its column holds it."""
    if value is None:
        return None
    if kind == "float64":
        return float(value)
    if kind == "string" and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if value in INT64 else "string"
    return "float64" if isinstance(value, float) else "string"


def _common(name: str, kinds: set[Kind]) -> Kind:
    if kinds <= {"int64", "float64"}:
        return "float64" if "float64" in kinds or name in ALWAYS_FLOAT else "int64"
    return next(iter(kinds)) if len(kinds) == 1 else "string"
