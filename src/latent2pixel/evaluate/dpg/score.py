"""DPG-Bench's score of a folder of pictures, by the official rules and by corrected ones."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latent2pixel.errors import DataError
from latent2pixel.evaluate.dpg.bench import DPGBench, corrected_items, oddities, official_items
from latent2pixel.evaluate.dpg.grids import NUM_SAMPLES, cut_grid, require_grid
from latent2pixel.evaluate.dpg.judge import Judge
from latent2pixel.evaluate.dpg.means import DPGScore, dpg_score
from latent2pixel.evaluate.dpg.rules import PictureScore, corrected_score, official_score
from latent2pixel.evaluate.journal import Journal
from latent2pixel.io.images import load_bytes

RULES: tuple[Literal["official", "corrected"], ...] = ("official", "corrected")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
"""Of files that are taken for pictures."""
OWN_ENDINGS = (".jsonl", ".journal")
"""Of files that scoring and composing leave beside them."""


@dataclass(frozen=True, kw_only=True)
class DPGResult:
    """Scores of a folder, and what was not scored."""

    official: DPGScore
    """By the official program's rules, faults included: comparable with published numbers if the judge is mPLUG."""
    corrected: DPGScore
    """From the same answers: no row skipped, dependencies in any order, categories of all samples, nothing dropped."""
    num_images: int
    """Grids whose questions were all answered."""
    num_samples: int
    """Pictures in a grid."""
    sizes: dict[str, int]
    """How many of those grids have which width and height: a folder of single pictures shows here."""
    num_missing: int
    missing: tuple[str, ...]
    """Items without a picture."""
    broken: tuple[str, ...]
    """Files that are no whole picture, or no grid, and why; not scored."""
    unanswered: tuple[str, ...]
    """Pictures with questions that the judge did not answer; not scored, and asked again by the same call."""
    ignored: tuple[str, ...]
    """Files beside the pictures that belong to no item with questions; not looked at."""
    oddities: tuple[str, ...]
    """What is odd about the set of questions."""
    judge: dict[str, Any]
    results: str
    """File with a line for each picture."""

    def as_record(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)


def score_dpg(
    folder: Path,
    judge: Judge,
    *,
    bench: DPGBench,
    num_samples: int = NUM_SAMPLES,
    side_px: int | None = None,
    results: Path | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> DPGResult:
    """Score the pictures of a folder; the same call again goes on, and asks anew only about what has changed.

    Args:
        folder: Holds ``ITEM.png`` for each prompt, a grid as ``compose_grids`` makes it.
        judge: Answers the questions.
        bench: Prompts and questions.
        num_samples: Pictures in each grid, 4 or 1.
        side_px: Width and height of a single picture, the official program's "resolution": other files are broken.
            None takes the size from the file.
        results: File for a line a picture; None puts it into the folder, under the names of set and judge.
        on_image: Called after each picture with how many are done, and of how many.

    Raises:
        DataError: There is nothing to score, or two pictures for one prompt.
        ConfigError: No grid of so many pictures.
        EndpointError: The judge cannot go on; what it answered is kept.
        OutputFolderError: The results cannot be written.
    """
    require_grid(num_samples)
    items = corrected_items(bench.rows)
    found, ignored = _find_pictures(folder, set(items))
    name = _set_name(bench, judge, num_samples)
    results = results or folder / f"{name.replace('/', '-')}.jsonl"
    journal, records = Journal(results), []
    for path in found:
        questions = list(dict.fromkeys(question.text for question in items[path.stem].values()))
        records.append(_record(path, questions, judge, journal, num_samples=num_samples, side_px=side_px))
        if on_image is not None:
            on_image(len(records), len(found))
    scores = {rules: _scores(records, bench, rules) for rules in RULES}
    journal.finish([_with_scores(record, scores) for record in records])
    sizes = Counter(record["size"] for record in records if "answers" in record)
    missing = sorted(set(items) - {path.stem for path in found})
    return DPGResult(
        official=_score(scores["official"], f"{name}/official"),
        corrected=_score(scores["corrected"], f"{name}/corrected"),
        num_images=sum(sizes.values()),
        num_samples=num_samples,
        sizes=dict(sorted(sizes.items())),
        num_missing=len(missing),
        missing=tuple(missing),
        broken=_told(records, "broken"),
        unanswered=_told(records, "unanswered"),
        ignored=tuple(ignored),
        oddities=oddities(bench),
        judge=judge.as_record(),
        results=str(results),
    )


def _find_pictures(folder: Path, items: set[str]) -> tuple[list[Path], list[str]]:
    """Return the pictures of items by name, whatever order the disk has them in, and the names of other files."""
    # Hidden files are those of operating systems, and of writers that are not done.
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    found = [path for path in files if path.suffix.lower() in ENDINGS and path.stem in items]
    if not found:
        raise DataError(
            "There is nothing for DPG-Bench to score",
            found=f"no picture of a prompt in {folder}",
            expected="a file for each prompt that has its name, such as partiprompts0.png",
            fix="Check the path; compose_grids makes such a folder of pictures that were drawn one by one.",
        )
    twice = [name for name, count in Counter(path.stem for path in found).items() if count > 1]
    if twice:
        raise DataError(
            "A prompt has two pictures, and would count twice",
            found=f"{twice[0]} under several endings in {folder}",
            expected="one",
            fix="Remove the others.",
        )
    ignored = [path.name for path in files if path not in found and path.suffix not in OWN_ENDINGS]
    return found, ignored


def _set_name(bench: DPGBench, judge: Judge, num_samples: int) -> str:
    """Return what a score may be compared under, but for the rules."""
    unusual = "" if num_samples == NUM_SAMPLES else f"+{num_samples}-sample"
    return f"{'dpg' if bench.is_official else 'dpg-format'}/{judge.name}{unusual}"


def _record(
    path: Path, questions: list[str], judge: Judge, journal: Journal, *, num_samples: int, side_px: int | None
) -> dict[str, Any]:
    """Return the record of a picture, from the journal if nothing that decides it has changed."""
    digest = _digest(path, [path.name, judge.as_record(), questions, num_samples, side_px])
    record = journal.find(digest)
    if record is not None:
        return record
    told = _ask(path, questions, judge, num_samples=num_samples, side_px=side_px)
    if "unanswered" in told:
        return {"image": path.name, **told}  # without its digest it is never found: the next call asks again
    record = {"image": path.name, "digest": digest, **told}
    journal.append(record)
    return record


def _ask(path: Path, questions: list[str], judge: Judge, *, num_samples: int, side_px: int | None) -> dict[str, Any]:
    columns = 1 if num_samples == 1 else 2
    try:
        grid_CHW = load_bytes(path, size_px=None if side_px is None else side_px * columns)
        images_CHW = cut_grid(grid_CHW, num_samples=num_samples)
    except DataError as error:
        return {"broken": error.found}
    told = judge.answer(images_CHW, questions)
    left = sum(answer is None for answers in told for answer in answers)
    if left:
        return {"unanswered": f"{left} of {len(images_CHW) * len(questions)} questions"}
    answers = [dict(zip(questions, answers, strict=True)) for answers in told]
    return {"size": f"{grid_CHW.shape[2]} x {grid_CHW.shape[1]}", "answers": answers}


def _scores(records: list[dict[str, Any]], bench: DPGBench, rules: str) -> dict[str, PictureScore | str]:
    """Return the score of each answered picture by its item, or why the rules drop it."""
    items = official_items(bench.rows) if rules == "official" else corrected_items(bench.rows)
    scores: dict[str, PictureScore | str] = {}
    for record in records:
        item = Path(record["image"]).stem
        if "answers" not in record:
            continue
        if item not in items:
            scores[item] = "the program has no question about it"
        elif rules == "official":
            scores[item] = official_score(items[item], record["answers"])
        else:
            scores[item] = corrected_score(items[item], record["answers"])
    return scores


def _score(scores: dict[str, PictureScore | str], key: str) -> DPGScore:
    return dpg_score(
        {item: score for item, score in scores.items() if isinstance(score, PictureScore)},
        key=key,
        dropped={item: score for item, score in scores.items() if isinstance(score, str)},
    )


def _with_scores(record: dict[str, Any], scores: dict[Any, dict[str, PictureScore | str]]) -> dict[str, Any]:
    """Return a record with the samples' scores by each set of rules, for readers: they are made anew every time."""
    item = Path(record["image"]).stem
    told = {rules: by_item.get(item) for rules, by_item in scores.items()}
    return record | {
        rules: list(score.samples) if isinstance(score, PictureScore) else score
        for rules, score in told.items()
        if score is not None
    }


def _told(records: list[dict[str, Any]], key: str) -> tuple[str, ...]:
    return tuple(f"{record['image']}: {record[key]}" for record in records if key in record)


def _digest(path: Path, told: list[Any]) -> str:
    """Return a SHA-256 of a picture and of all else that decides the answers."""
    try:
        content = path.read_bytes()
    except OSError as error:
        content = str(error).encode()  # it is broken as long as the reason stays
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode() + b"\n" + content).hexdigest()
