"""The folder of pictures as GenEval lays it out: ``NNNNN/metadata.jsonl`` and ``NNNNN/samples/NNNNN.png``."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.prompts import GenEvalPrompt, prompt_of
from latent2pixel.io.images import save_image
from latent2pixel.io.new_folder import write_file
from latent2pixel.io.records import read_records

NUM_SAMPLES = 4
"""Pictures of a prompt in the protocol."""
SAMPLING_SEED = 42
"""The program seeds with it anew before every prompt, so the pictures of all prompts start from the same noise."""
METADATA, SAMPLES = "metadata.jsonl", "samples"
IMAGE_NAME = re.compile(r"\d+\.png")
"""What the program takes for a picture."""


@dataclass(frozen=True, kw_only=True)
class PromptFolder:
    """One prompt's part of a folder."""

    name: str
    """Of the sub-folder, such as "00012"."""
    prompt: GenEvalPrompt
    images: tuple[Path, ...]
    """Files that should be pictures, by their number."""
    ignored: tuple[Path, ...]
    """Other files beside them."""


def write_prompt_folders(folder: Path, prompts: Sequence[GenEvalPrompt]) -> None:
    """Lay out the folders of prompts before their pictures are made, so that pictures which never came are missed.

    Raises:
        DataError: The folder holds another prompt under a number.
        OutputFolderError: It cannot be written.
    """
    for index, prompt in enumerate(prompts):
        path = folder / f"{index:05d}" / METADATA
        if path.is_file():
            _require_same(path, prompt)
        else:
            write_file(path, json.dumps(prompt.as_record()))


def sample_path(folder: Path, prompt_index: int, sample_index: int) -> Path:
    """Return where a picture of a prompt lies."""
    return folder / f"{prompt_index:05d}" / SAMPLES / f"{sample_index:05d}.png"


def save_sample(folder: Path, image_CHW: Tensor, *, prompt_index: int, sample_index: int) -> None:
    """Save a picture in [-1, 1] as a file that appears whole or not at all.

    Raises:
        OutputFolderError: It cannot be written.
    """
    save_image(sample_path(folder, prompt_index, sample_index), image_CHW)


def missing_samples(folder: Path, num_prompts: int, *, num_samples: int = NUM_SAMPLES) -> list[tuple[int, int]]:
    """Return (prompt, sample) of the pictures that are still to be made, in order."""
    wanted = ((prompt, sample) for prompt in range(num_prompts) for sample in range(num_samples))
    return [place for place in wanted if not sample_path(folder, *place).is_file()]


def read_prompt_folders(folder: Path) -> list[PromptFolder]:
    """Return the prompts of a folder and their files, by number, whatever order the disk has them in.

    Raises:
        DataError: There are none, or a prompt cannot be read.
    """
    found = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()] if folder.is_dir() else []
    if not found:
        raise DataError(
            "There is nothing for GenEval to score",
            found=f"no sub-folder of a prompt in {folder}",
            expected=f"00000/{METADATA}, 00000/{SAMPLES}/00000.png and so on",
            fix="Check the path; other layouts of pictures cannot be scored.",
        )
    return [_read_prompt_folder(path) for path in sorted(found, key=lambda path: (int(path.name), path.name))]


def _read_prompt_folder(folder: Path) -> PromptFolder:
    path = folder / METADATA
    records = read_records(path)
    if len(records) != 1:
        raise _bad_metadata(path, f"{len(records)} records", "one")
    samples = folder / SAMPLES
    files = list(samples.iterdir()) if samples.is_dir() else []
    images = [file for file in files if IMAGE_NAME.fullmatch(file.name)]
    # Hidden files are those of operating systems, and of writers that are not done.
    ignored = [file for file in files if not IMAGE_NAME.fullmatch(file.name) and not file.name.startswith(".")]
    return PromptFolder(
        name=folder.name,
        prompt=prompt_of(records[0], place=str(path)),
        images=tuple(sorted(images, key=lambda file: (int(file.stem), file.name))),
        ignored=tuple(sorted(ignored)),
    )


def _require_same(path: Path, prompt: GenEvalPrompt) -> None:
    records = read_records(path)
    if records != [prompt.as_record()]:
        raise _bad_metadata(path, str([record.get("prompt") for record in records]), f"the prompt {prompt.prompt!r}")


def _bad_metadata(path: Path, found: str, expected: str) -> DataError:
    return DataError(
        f"{path} is not the prompt of its pictures",
        found=found,
        expected=expected,
        fix="Use a folder of its own for every set of prompts, or correct the file.",
    )
