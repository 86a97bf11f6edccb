"""How large images of each published source can be: positions of its transformer, patches of its pipeline."""

from collections.abc import Sequence

from latent2pixel.families import load_family
from latent2pixel.families.catalogue import Release, full_config
from latent2pixel.model.positions import PositionLimit

LARGE_PATCHES = (64, 128, 160)
"""Those of 4K, 8K and 10K."""
COLUMNS = (
    "sources",
    "family",
    "most tokens",
    "side at the source's patch",
    *(f"side at patch {patch}" for patch in LARGE_PATCHES),
)


def limits_table(releases: Sequence[Release]) -> str:
    """Return the limits as a Markdown table, sources of equal ones in one row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for release in releases:
        rows.setdefault(_limits(release), []).append(release.release)
    cells = [COLUMNS, ("---",) * len(COLUMNS)]
    cells += [(", ".join(names), *limits) for limits, names in rows.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _limits(release: Release) -> tuple[str, ...]:
    """Return all cells of a release but its name."""
    family = load_family(release.family)
    limit, only = family.position_limit(full_config(release)), family.only_patch_px
    sides = [_side(limit, patch) if only in (None, patch) else "no" for patch in (release.patch_px, *LARGE_PATCHES)]
    most = "any" if limit == PositionLimit() else str(limit).removesuffix(" tokens")
    return (f"`{release.family}`", most, f"{sides[0]} ({release.patch_px})", *sides[1:])


def _side(limit: PositionLimit, patch: int) -> str:
    """Return the largest side of an image in pixels."""
    if limit.oblong_tokens is not None:
        return "any square"
    return "any" if limit.rows is None or limit.columns is None else f"{min(limit.rows, limit.columns) * patch:,}"
