"""GenEval's score of pictures that lie in any folder, by the prompt and seed of each."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.colours import ColourClassifier
from latent2pixel.evaluate.geneval.detector import Detector
from latent2pixel.evaluate.geneval.layout import sample_path, write_prompt_folders
from latent2pixel.evaluate.geneval.prompts import GenEvalPrompt
from latent2pixel.evaluate.geneval.score import score_geneval
from latent2pixel.evaluate.pairs import Key
from latent2pixel.evaluate.scores import Judgement, PictureScore
from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.records import read_records


def judge_images(
    images: Mapping[Key, Path],
    prompts: Sequence[GenEvalPrompt],
    folder: Path,
    *,
    detector: Detector,
    colours: ColourClassifier,
    num_samples: int,
) -> Judgement:
    """Score pictures as ``score_geneval`` does; the same call again scores anew only what has changed.

    Args:
        images: Pictures by prompt and seed.
        prompts: All that should have pictures; those without are counted as missing.
        folder: Receives ``images``, laid out for GenEval's own program too, and ``results.jsonl``.
        detector: Finds the objects.
        colours: Names their colours.
        num_samples: Pictures that every prompt should have.

    Raises:
        DataError: A picture shows another prompt, a prompt stands there twice, or has more pictures than it should.
        OutputFolderError: The folder cannot be written.
    """
    places = lay_out(images, prompts, folder / "images")
    result = score_geneval(
        folder / "images", detector, colours, num_samples=num_samples, results=folder / "results.jsonl"
    )
    name, scores, broken = result.key.split("/")[0], {}, {}
    for record in read_records(Path(result.results)):
        key = places[record["image"]]
        if "broken" in record:
            broken[key] = record["broken"]
        else:
            scores[key] = PictureScore(
                file=images[key],
                task=f"{name}/{record['task']}",
                score=float(record["correct"]),
                reason="; ".join(record["reasons"]),
            )
    # The machine's path is no part of what was measured.
    return Judgement(scores=scores, broken=broken, record=result.as_record() | {"results": "results.jsonl"})


def lay_out(images: Mapping[Key, Path], prompts: Sequence[GenEvalPrompt], folder: Path) -> dict[str, Key]:
    """Lay pictures out as GenEval's program reads them, and return prompt and seed by each one's place.

    The files are hard links, or copies where the disk cannot link. An older layout is replaced.

    Args:
        images: Pictures by prompt and seed; those of a prompt are numbered in the order of their seeds.
        prompts: In the order of the benchmark.
        folder: To make.

    Raises:
        DataError: A picture shows a prompt that is not among them, or a prompt stands there twice.
        OutputFolderError: The folder cannot be written.
    """
    index_of = {prompt.prompt: index for index, prompt in enumerate(prompts)}
    _require_distinct(prompts)
    _require_known(images, index_of)
    places: dict[str, Key] = {}
    counts: Counter[str] = Counter()
    with new_folder(folder, replace=True) as partial:
        write_prompt_folders(partial, prompts)
        for text, seed in sorted(images):
            path = sample_path(partial, index_of[text], counts[text])
            counts[text] += 1
            path.parent.mkdir(exist_ok=True)
            _link(images[text, seed], path)
            places[path.relative_to(partial).as_posix()] = (text, seed)
    return places


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links; a full disk fails again below
        shutil.copyfile(source, target)


def _require_distinct(prompts: Sequence[GenEvalPrompt]) -> None:
    twice = [text for text, count in Counter(prompt.prompt for prompt in prompts).items() if count > 1]
    if twice:
        raise DataError(
            "A prompt stands in the file twice, so its pictures cannot be told apart",
            found=repr(twice[0]),
            expected="every prompt once",
            fix="Remove one of the two.",
        )


def _require_known(images: Mapping[Key, Path], index_of: Mapping[str, int]) -> None:
    other = sorted({text for text, _ in images} - index_of.keys())
    if other:
        raise DataError(
            "A picture shows no prompt of this benchmark",
            found=f"{len(other)} other prompts, such as {other[0]!r}",
            expected=f"one of {len(index_of)} prompts, such as {next(iter(index_of))!r}",
            fix="Choose the suite and the prompts that the pictures were made for.",
        )
