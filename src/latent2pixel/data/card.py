"""The dataset card of a packed set: what it is, how it was made, and under which licence."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from latent2pixel.data.stats import UNKNOWN, DataStats, PromptStats

CARD = "README.md"
"""Where the Hub looks for it."""
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""Upper limit -> size category of the Hub."""
FACTS = {
    "source": "source",
    "revision": "revision",
    "licence": "licence of the source",
    "steps": "steps",
    "guidance": "guidance",
}
"""Field of the records -> what the card calls it."""
ALWAYS_TOLD = ("source", "licence")
"""Facts whose absence is one."""
LARGEST = "10M<n<100M"
LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "unlicense", "gpl-3.0", "agpl-3.0"),
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "odbl", "odc-by", "pddl"),
    *("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m"),
)
"""The Hub's own names of the most frequent licences; every other is "other" with a name, which it accepts too."""


def dataset_card(
    stats: DataStats, records: Sequence[Mapping[str, Any]], *, num_bytes: int, licence: str | None = None
) -> str:
    """Return the card of a packed set, in Markdown with YAML front matter.

    Args:
        stats: Of the folder that was packed.
        records: Of the packed images.
        num_bytes: Of their files.
        licence: Licence of images whose records tell none.
    """
    untold = 0 if licence else sum(not record.get("licence") for record in records)
    licences = _distinct([{"licence": licence} | _told(record) for record in records], "licence")
    # Part of a set is no set: where one image has no licence, the front matter gives none.
    named = [] if untold else licences
    synthetic = any(record.get("origin") != "real" for record in records)
    languages = [language for language in _distinct(records, "language") if re.fullmatch(r"[a-z]{2,3}", language)]
    front = DatasetCardData(
        license="other" if len(named) > 1 else _hub_name(named[0]) if named else None,
        license_name=_slug(" and ".join(named)) if named and _is_other(named) else None,
        language=languages or None,
        task_categories=["text-to-image"],
        size_categories=_size_category(len(records)),
        tags=["latent2pixel", *(["synthetic"] if synthetic else [])],
        pretty_name=stats.folder,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    ).to_yaml()
    parts = [
        f"---\n{front}\n---",
        f"# {_cell(stats.folder)}",
        _what(records, num_bytes, synthetic=synthetic),
        "## How the images were made" if synthetic else "## Where the images come from",
        _table(("what", "value"), _making(records)),
        *([] if stats.prompts is None else ["## How the prompts were made", _prompts(stats.prompts)]),
        "## Classes",
        _classes(records),
        "## Texts",
        f"{stats.texts.count:,} texts of {stats.texts.shortest:,} to {stats.texts.longest:,} characters, the median "
        f"{stats.texts.median:.0f}; {stats.texts.in_band:.0%} have 200 to 350. {stats.texts.duplicate_rate:.1%} repeat "
        "another but for case, spaces and punctuation.",
        "## Use",
        _USE,
        "## Licence and limits",
        _limits(licences, untold, synthetic=synthetic),
    ]
    return "\n\n".join(parts) + "\n"


_USE = """```python
from datasets import load_dataset

train = load_dataset("THIS FOLDER OR ITS ID", split="train")
```

`l2p train MODEL FOLDER RUN` trains on a local copy as it is."""


def _what(records: Sequence[Mapping[str, Any]], num_bytes: int, *, synthetic: bool) -> str:
    real = sum(record.get("origin") == "real" for record in records)
    made = len(records) - real
    kinds = [f"{made:,} images made by a model"] if made else []
    kinds += [f"{real:,} real images"] if real else []
    purpose = "training set for a pixel-space text-to-image model"
    origin = ", made with the data engine of latent2pixel" if synthetic else ", imported by latent2pixel"
    size = f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
    return f"A {purpose}{origin}: {' and '.join(kinds)} with their prompts, {size}."


def _making(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what the records say of the making, values in the order of their number."""
    rows = []
    for key, name in FACTS.items():
        found = Counter(str(record.get(key)) for record in records if record.get(key) not in (None, ""))
        if found or key in ALWAYS_TOLD:
            shown = ", ".join(f"{_cell(value)} ({count:,})" for value, count in found.most_common(5))
            rows.append((name, shown or UNKNOWN))
    sizes = Counter((record["width"], record["height"]) for record in records)
    shown = ", ".join(f"{width} x {height} ({count:,})" for (width, height), count in sizes.most_common(5))
    return [*rows, (f"sizes in pixels, {len(sizes)} in all", shown)]


def _prompts(prompts: PromptStats) -> str:
    facts = _table(("what", "value"), [(_cell(key), _cell(value)) for key, value in prompts.made_by.items()])
    funnel = [(_cell(stage.stage), f"{stage.rejected:,}", f"{stage.left:,}") for stage in prompts.funnel]
    steps = [("written", "", f"{prompts.written:,}"), *funnel]
    return (facts + "\n\n" if prompts.made_by else "") + _table(("stage of the audit", "rejected", "left"), steps)


def _classes(records: Sequence[Mapping[str, Any]]) -> str:
    found = Counter((str(record.get("major_class", "")), str(record.get("sub_class", ""))) for record in records)
    rows = [
        (_cell(major or UNKNOWN), _cell(sub or UNKNOWN), f"{count:,}", f"{count / len(records):.1%}")
        for (major, sub), count in sorted(found.items())
    ]
    return _table(("class", "sub-class", "images", "share"), rows)


def _limits(licences: Sequence[str], untold: int, *, synthetic: bool) -> str:
    named = ", ".join(_cell(one) for one in licences)
    parts = [f"The images carry the licence of their source: {named}."] if licences else []
    parts += [f"No licence is recorded for {untold:,} images."] if untold else []
    told = " ".join(parts)
    if not synthetic:
        return told
    return (
        f"{told} They show what their model makes of a prompt, with its errors and its bias; prompts and images were "
        "checked by programs, not by people."
    )


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that hold something."""
    return {key: value for key, value in record.items() if value not in (None, "")}


def _distinct(records: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return sorted({str(record[key]) for record in records if record.get(key) not in (None, "")})


def _is_other(licences: Sequence[str]) -> bool:
    return len(licences) > 1 or _hub_name(licences[0]) == "other"


def _hub_name(licence: str) -> str:
    return licence.lower() if licence.lower() in LICENCES else "other"


def _slug(text: str) -> str:
    """Return a name of the form that the Hub takes."""
    return re.sub(r"[^a-z0-9.+-]+", "-", text.lower()).strip("-") or "unnamed"


def _size_category(count: int) -> str:
    return next((name for limit, name in SIZES if count < limit), LARGEST)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: object) -> str:
    """Return text that stays what it is in a Markdown table: others wrote it."""
    single = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", single)
