"""GenEval's score of a folder of pictures."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.clauses import Detection, Verdict, judge_detections, keep
from latent2pixel.evaluate.geneval.colours import ColourClassifier
from latent2pixel.evaluate.geneval.detector import Detector
from latent2pixel.evaluate.geneval.layout import NUM_SAMPLES, PromptFolder, read_prompt_folders
from latent2pixel.evaluate.geneval.means import TaskMean, six_task_mean, task_means
from latent2pixel.evaluate.geneval.prompts import OFFICIAL_DIGEST, GenEvalPrompt, digest_of
from latent2pixel.evaluate.geneval.six_tasks import SIX_TASKS, load_six_tasks
from latent2pixel.evaluate.journal import Journal
from latent2pixel.io.images import load_bytes

RULES = 1
"""Raised with every change of what makes a picture right: records of other rules are not taken over."""
USUAL_COLOURS = "hf-clip-vit-l-14"
"""The classifier that a key does not name."""


@dataclass(frozen=True, kw_only=True)
class GenEvalResult:
    """Scores of a folder, and what was not scored."""

    key: str
    """Set of prompts and detector, such as "geneval/hf-mask2former-swin-s"; other keys are other benchmarks."""
    score: float | None
    """Unweighted mean over the six tasks; None if a task has no picture."""
    standard_error: float | None
    """Of the score, over prompts; None if a task has fewer than two."""
    tasks: dict[str, TaskMean]
    """Of the tasks that have pictures."""
    num_images: int
    """That were scored."""
    num_missing: int
    """Pictures that are not there."""
    missing: tuple[str, ...]
    """Where they are missing, in words."""
    broken: tuple[str, ...]
    """Files that are no whole picture, and why; not scored."""
    ignored: tuple[str, ...]
    """Files beside the pictures whose names are none of GenEval's; not looked at."""
    detector: dict[str, Any]
    colours: dict[str, Any]
    results: str
    """File with a line for each picture."""

    def as_record(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)


def score_geneval(
    folder: Path,
    detector: Detector,
    colours: ColourClassifier,
    *,
    num_samples: int = NUM_SAMPLES,
    results: Path | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> GenEvalResult:
    """Score the pictures of a folder; the same call again goes on, and scores anew only what has changed.

    Args:
        folder: As ``read_prompt_folders`` reads it.
        detector: Finds the objects.
        colours: Names their colours.
        num_samples: Pictures that every prompt should have.
        results: File for a line a picture; None puts it into the folder, under the name of the key.
        on_image: Called after each picture with how many are done, and of how many.

    Raises:
        DataError: There is nothing to score, a prompt cannot be read, or has more pictures than it should.
        OutputFolderError: The results cannot be written.
    """
    found = read_prompt_folders(folder)
    _require_at_most(found, num_samples)
    key = result_key([part.prompt for part in found], detector, colours)
    results = results or folder / f"{key.replace('/', '-')}.jsonl"
    judge = {"rules": RULES, "detector": detector.as_record(), "colours": colours.as_record()}
    journal, records = Journal(results), []
    num_images = sum(len(part.images) for part in found)
    for part in found:
        for path in part.images:
            name = path.relative_to(folder).as_posix()
            digest = _digest(path, [name, judge, part.prompt.as_record()])
            record = journal.find(digest)
            if record is None:
                record = {"image": name, "digest": digest, **_score_image(path, part.prompt, detector, colours)}
                journal.append(record)
            records.append(record)
            if on_image is not None:
                on_image(len(records), num_images)
    journal.finish(records)
    return _result(folder, found, records, key=key, num_samples=num_samples, judge=judge, results=results)


def result_key(prompts: list[GenEvalPrompt], detector: Detector, colours: ColourClassifier) -> str:
    """Return what a score may be compared under: the set of prompts, the detector, and an unusual colour classifier."""
    names = {OFFICIAL_DIGEST: "geneval", digest_of(load_six_tasks()): SIX_TASKS}
    name = names.get(digest_of(prompts), "geneval-format")
    unusual = "" if colours.name == USUAL_COLOURS else f"+{colours.name}"
    return f"{name}/{detector.name}{unusual}"


def _score_image(path: Path, prompt: GenEvalPrompt, detector: Detector, colours: ColourClassifier) -> dict[str, Any]:
    try:
        image_CHW = load_bytes(path)
    except DataError as error:
        return {"broken": error.found}
    kept = keep(detector.detect(image_CHW), task=prompt.task)
    verdict: Verdict = judge_detections(kept, prompt, colours_of=partial(colours.colours, image_CHW))
    return {
        "task": prompt.task,
        "prompt": prompt.prompt,
        "correct": verdict.correct,
        "reasons": list(verdict.reasons),
        "found": {name: [_rounded(each) for each in detections] for name, detections in kept.items()},
    }


def _rounded(detection: Detection) -> list[float]:
    return [*detection.box, round(detection.score, 4)]


def _digest(path: Path, told: list[Any]) -> str:
    """Return a SHA-256 of a picture and of all else that decides its record."""
    try:
        content = path.read_bytes()
    except OSError as error:
        content = str(error).encode()  # it is broken as long as the reason stays
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode() + b"\n" + content).hexdigest()


def _result(
    folder: Path,
    found: list[PromptFolder],
    records: list[dict[str, Any]],
    *,
    key: str,
    num_samples: int,
    judge: dict[str, Any],
    results: Path,
) -> GenEvalResult:
    scored = [record for record in records if "broken" not in record]
    tasks = task_means((each["task"], each["image"].split("/")[0], each["correct"]) for each in scored)
    score, standard_error = six_task_mean(tasks)
    missing = {
        f"{part.name}/samples: {len(part.images)} of {num_samples} pictures": num_samples - len(part.images)
        for part in found
        if len(part.images) < num_samples
    }
    numbers = {int(part.name) for part in found}
    missing |= {f"{gap:05d}: no folder": num_samples for gap in range(max(numbers)) if gap not in numbers}
    return GenEvalResult(
        key=key,
        score=score,
        standard_error=standard_error,
        tasks=tasks,
        num_images=len(scored),
        num_missing=sum(missing.values()),
        missing=tuple(sorted(missing)),
        broken=tuple(f"{record['image']}: {record['broken']}" for record in records if "broken" in record),
        ignored=tuple(path.relative_to(folder).as_posix() for part in found for path in part.ignored),
        detector=judge["detector"],
        colours=judge["colours"],
        results=str(results),
    )


def _require_at_most(found: list[PromptFolder], num_samples: int) -> None:
    most = max(found, key=lambda part: len(part.images))
    if len(most.images) > num_samples:
        raise DataError(
            "A prompt has more pictures than it should, and would count more than others",
            found=f"{len(most.images)} in {most.name}",
            expected=f"{num_samples} at most",
            fix="Say how many every prompt has (num_samples), or remove those of an earlier run.",
        )
