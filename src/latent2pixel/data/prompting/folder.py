"""The files of a prompts folder, and what they say about each other."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latent2pixel.data.claim import MANIFEST, other_settings, read_manifest
from latent2pixel.data.prompting.asking import Usage
from latent2pixel.data.prompting.funnel import Rejected, Written
from latent2pixel.data.prompting.journal import Journal
from latent2pixel.data.prompts import Prompt
from latent2pixel.io.new_folder import write_file
from latent2pixel.io.records import write_records

PROMPTS = "prompts.jsonl"
REJECTED = "rejected.jsonl"
TAXONOMY = "taxonomy.yaml"
REPLIES = "replies.jsonl"
MAX_REJECTED_TEXT = 2000
"""Characters kept of a text that is no prompt, such as a whole broken reply; all of it is in ``replies.jsonl``."""


@dataclass(frozen=True, kw_only=True)
class PromptsReport:
    """What a folder of prompts holds, and what it took."""

    wanted: int
    kept: int
    missing: int
    """Places without a prompt: all of theirs were rejected, or nobody answered."""
    unanswered: int
    """Of these, places whose question had no reply in this run."""
    rejected: Mapping[str, int]
    """Rejected prompts by stage, over all rounds."""
    rounds: int
    classes: Mapping[str, int]
    """Kept prompts by "major class/sub-class"."""
    kinds: Mapping[str, int]
    languages: Mapping[str, int]
    replies: Mapping[str, int]
    """Replies by task, those of earlier runs included."""
    new_replies: int
    """Replies of this run."""
    unusable_replies: int
    failures: Mapping[str, int]
    """Failures of the server in this run, by kind; most went away on repetition."""
    tokens_in: int
    tokens_out: int
    replies_without_token_count: int
    cost: float
    seconds: float
    """Of this run."""

    def describe(self) -> str:
        """Return a few lines for a person."""
        lines = [f"{self.kept} of {self.wanted} prompts kept; rounds: {self.rounds}, {self.seconds:.1f} s"]
        lines.append(f"rejected: {_listed(self.rejected)}")
        lines.append(f"replies: {_listed(self.replies)}; {self.new_replies} new, {self.unusable_replies} unusable")
        lines.append(f"tokens: {self.tokens_in} in, {self.tokens_out} out; cost {self.cost:.4f}")
        if self.replies_without_token_count:
            lines.append(f"  {self.replies_without_token_count} replies came without a count of their tokens")
        if self.failures:
            lines.append(f"failures: {_listed(self.failures)}")
        if self.missing:
            why = f", {self.unanswered} of them without a reply" if self.unanswered else ""
            lines.append(
                f"{self.missing} places are empty{why}; the same command with more rounds (--set rounds=N) goes on"
            )
        return "\n".join(lines)


def make_report(
    funnel_kept: Mapping[int, Written],
    rejected: Sequence[Rejected],
    *,
    wanted: int,
    unanswered: int,
    rounds: int,
    journal: Journal,
    cost: float,
    usage: Usage,
    seconds: float,
) -> PromptsReport:
    """Count what there is."""
    places = [one.place for one in funnel_kept.values()]
    return PromptsReport(
        wanted=wanted,
        kept=len(places),
        missing=wanted - len(places),
        unanswered=unanswered,
        rejected=dict(Counter(one.objection.stage for one in rejected)),
        rounds=rounds,
        classes=dict(Counter("/".join(place.key) for place in places)),
        kinds=dict(Counter(place.kind for place in places)),
        languages=dict(Counter(place.language for place in places)),
        replies=dict(journal.by_task),
        new_replies=usage.new_replies,
        unusable_replies=usage.unusable,
        failures=dict(usage.failures),
        tokens_in=journal.tokens_in,
        tokens_out=journal.tokens_out,
        replies_without_token_count=journal.without_count,
        cost=cost,
        seconds=seconds,
    )


def save_folder(
    folder: Path,
    kept: Mapping[int, Written],
    rejected: Iterable[Rejected],
    *,
    settings: Mapping[str, Any],
    report: PromptsReport,
) -> None:
    """Write kept and rejected prompts, then the manifest; each file appears whole or not at all."""
    write_records(folder / PROMPTS, (_record(one, f"{number:06d}") for number, one in sorted(kept.items())))
    in_order = sorted(rejected, key=lambda one: (one.place.number, one.round))
    write_records(
        folder / REJECTED,
        (
            _record(one, f"{one.place.number:06d}-r{one.round}")
            | {"prompt": one.text[:MAX_REJECTED_TEXT], "stage": one.objection.stage, "reason": one.objection.reason}
            for one in in_order
        ),
    )
    write_file(folder / MANIFEST, _manifest(settings, asdict(report)))


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the manifest of a folder without replies, or check that the folder's own is the same.

    Raises:
        StateError: The folder holds prompts of other settings, or its manifest is damaged.
    """
    path = folder / MANIFEST
    replies = folder / REPLIES
    has_replies = replies.exists() and replies.stat().st_size > 0
    if path.exists() and has_replies:
        before = read_manifest(folder).get("settings", {})
        if differing := sorted(key for key in {*settings, *before} if before.get(key) != settings.get(key)):
            raise other_settings(f"{folder} holds prompts of other settings", settings, before, differing=differing)
        return
    write_file(path, _manifest(settings, {}))


def _manifest(settings: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    return json.dumps({"settings": dict(settings), "report": dict(report)}, indent=2, ensure_ascii=False) + "\n"


def _record(one: Written, identity: str) -> dict[str, Any]:
    place = one.place
    prompt = Prompt(
        id=identity,
        prompt=one.text,
        major_class=place.major_class,
        sub_class=place.sub_class.name,
        category=place.category,
        kind=place.kind,
        language=place.language,
    )
    return asdict(prompt) | {"round": one.round}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
