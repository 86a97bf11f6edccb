"""What a data folder holds: prompts, images, or both side by side."""

from dataclasses import dataclass
from pathlib import Path

from latent2pixel.errors import DataError
from latent2pixel.io.packed_image import packed_files

PROMPTS, REJECTED = "prompts.jsonl", "rejected.jsonl"
"""Prompts that were kept, and those that were not."""
SKIPPED = "skipped.jsonl"
"""Beside images: file and reason of every one that was left out."""


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """Where the parts of a data folder lie; at least one is there."""

    prompts: Path | None
    """Folder with ``prompts.jsonl``."""
    images: Path | None
    """Folder with images and their records, loose or packed."""

    @classmethod
    def find(cls, folder: Path) -> "DataFolder":
        """Return the parts of a folder: itself, or ``prompts`` and ``images`` in it.

        Raises:
            DataError: It holds neither.
        """
        prompts = [place for place in (folder / "prompts", folder) if (place / PROMPTS).is_file()]
        images = [place for place in (folder / "images", folder) if _holds_images(place)]
        if not prompts and not images:
            raise DataError(
                f"{folder} holds no data",
                found="no such folder" if not folder.is_dir() else "neither prompts nor images",
                expected="prompts.jsonl, images with metadata.jsonl, Parquet files; or prompts/ and images/ with them",
                fix="Make prompts with `l2p data prompts`, images with `l2p data synthesize` or `l2p data import`.",
            )
        return cls(prompts=next(iter(prompts), None), images=next(iter(images), None))


def _holds_images(folder: Path) -> bool:
    return any(any(folder.glob(f"{below}metadata.jsonl")) for below in ("", "[!.]*/")) or bool(packed_files(folder))
