"""A picture to make: its file, and the record in it of how it was made. The file is its own manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent2pixel import __version__
from latent2pixel.errors import ConfigError, DataError, StateError
from latent2pixel.io.png_rows import read_record

ENDING = ".png"
NOT_SETTINGS = ("version",)
"""What a record holds but pictures of one call may differ in."""


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What all pictures of a call have in common."""

    size_px: tuple[int, int]
    """Height and width."""
    num_steps: int = 30
    """Steps of the pipeline's scheduler."""
    guidance_scale: float = 2.0
    """Guidance of the pipeline."""
    model: str = ""
    """Id on the Hub, or a folder's name."""
    revision: str = ""
    """Fingerprint of its weights."""
    dtype: str = ""
    """Of the transformer."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ConfigError(
                "A picture needs steps",
                found=self.num_steps,
                expected="a number above 0",
                fix="Choose more steps, such as 30.",
            )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a call."""

    path: Path
    prompt: str
    seed: int
    """Of its noise."""

    def record(self, settings: PictureSettings) -> dict[str, Any]:
        """Return how it is made, as it stands in its file."""
        height, width = settings.size_px
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "width": width,
            "height": height,
            "steps": settings.num_steps,
            "guidance": settings.guidance_scale,
            "model": settings.model,
            "revision": settings.revision,
            "dtype": settings.dtype,
            "version": __version__,
        }

    def is_finished(self, settings: PictureSettings) -> bool:
        """Tell whether its file is there already.

        Raises:
            DataError: The file is no PNG.
            StateError: It is another picture.
        """
        if not self.path.exists():
            return False
        require_same(self.path, self.record(settings), read_record(self.path) or {})
        return True


def plan_pictures(out: Path, prompts: Sequence[str], seeds: Sequence[int]) -> list[Picture]:
    """Return a picture for each prompt and seed.

    Args:
        out: PNG file of the only picture, or a folder of all.
        prompts: What to show.
        seeds: Of the noise, each once for every prompt.

    Raises:
        ConfigError: A file was named for several pictures, or a seed comes twice.
        DataError: The file's ending is not that of a PNG.
    """
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            "A seed comes twice",
            found=", ".join(map(str, seeds)),
            expected="every seed once: the same seed makes the same picture",
            fix="Leave one out.",
        )
    is_folder = out.is_dir() or not out.suffix
    if not is_folder and out.suffix.lower() != ENDING:
        raise DataError(
            "Pictures are PNG files: they hold the record of how they were made, and lose nothing",
            found=str(out),
            expected=f"a name that ends in {ENDING}, or a folder's",
            fix=f"Choose {out.with_suffix(ENDING)}, and convert it afterwards.",
        )
    if is_folder:
        return [
            Picture(path=out / f"{number:04d}-{seed}{ENDING}", prompt=prompt, seed=seed)
            for number, prompt in enumerate(prompts)
            for seed in seeds
        ]
    if len(prompts) * len(seeds) != 1:
        raise ConfigError(
            "One file cannot hold several pictures",
            found=f"{len(prompts) * len(seeds)} pictures for {out}",
            expected="a folder",
            fix=f"Choose {out.with_suffix('')}.",
        )
    return [Picture(path=out, prompt=prompts[0], seed=seeds[0])]


def require_same(path: Path, record: dict[str, Any], before: dict[str, Any]) -> None:
    """Check that what is there was made as it would be now.

    Raises:
        StateError: If not.
    """
    differing = [key for key in record if key not in NOT_SETTINGS and before.get(key) != record[key]]
    if differing:
        raise StateError(
            f"{path} was made with other settings",
            found=", ".join(f"{key} = {record[key]}" for key in differing),
            expected=", ".join(f"{key} = {before.get(key)}" for key in differing) if before else "a picture of ours",
            fix="Repeat the earlier settings, choose another name, or remove it.",
        )
