"""The images of an ablation, made once for each seed and shared by all its arms."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from PIL import Image

from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.source_facts import source_facts
from latent2pixel.data.synthesize import synthesize
from latent2pixel.device import fastest_device
from latent2pixel.errors import ConfigError
from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.pipeline_folder import open_pipeline
from latent2pixel.io.records import write_records
from latent2pixel.workflow.ablation.study import AblationConfig, ImageSet
from latent2pixel.workflow.world_prompts import MAJOR_CLASS, heldout_prompts
from latent2pixel.world.captions import draw_captions
from latent2pixel.world.levels import Level, require_level
from latent2pixel.world.render import render
from latent2pixel.world.scenes import compose_scene
from latent2pixel.world.score import caption_of
from latent2pixel.world.source_model import RESOLUTION_PX

PICTURES_AT_A_TIME = 60
"""Pictures in a batch, and in a shard: small ones can be shared out among many processes."""
MIX_SHARE = 0.5
"""Share of the renders in the mix: 1:1."""


@dataclass(frozen=True, kw_only=True)
class AblationImages:
    """The images of one seed; each set is made when it is first asked for, by all processes that ask for it."""

    folder: Path
    """Holds them, a folder each."""
    source: Path
    """Pipeline folder of the source."""
    other: Path | None
    """Of another source, whose images can be trained on."""
    config: AblationConfig
    seed: int

    def training(self, images: ImageSet, size_px: int) -> ImageFolderDataset:
        """Return images of training captions.

        Raises:
            ConfigError: As ``pipeline_of``.
        """
        captions = {
            caption.text for caption in draw_captions(self.level, "train", self.config.num_prompts, seed=self.seed)
        }
        prompts = [_prompt(index, text) for index, text in enumerate(sorted(captions))]
        if images == "mix":
            renders = self._made("renders", prompts, size_px)
            return ImageFolderDataset(self._made("source", prompts, size_px), size_px, mix={renders: MIX_SHARE})
        return ImageFolderDataset(self._made(images, prompts, size_px), size_px)

    def validation(self, size_px: int) -> ImageFolderDataset:
        """Return images of held-out captions: the source's at its own size, else true renders."""
        prompts = heldout_prompts(self.level, self.config.num_validation, seed=self.seed)
        kind: ImageSet = "source" if size_px == RESOLUTION_PX else "renders"
        return ImageFolderDataset(self._made(kind, prompts, size_px, of="validation", seeds=1), size_px)

    @property
    def level(self) -> Level:
        """Return the level of the world."""
        return require_level(self.config.level)

    def _made(
        self, images: ImageSet, prompts: list[Prompt], size_px: int, *, of: str = "images", seeds: int | None = None
    ) -> Path:
        """Return the folder of a set, made now if it is not there."""
        seeds = self.config.seeds_per_prompt if seeds is None else seeds
        path = self.folder / f"{of}-{images}-{size_px}"
        pipeline = self.pipeline_of(images, size_px)
        if pipeline is not None:
            self._draw(path, pipeline, prompts, seeds=seeds)
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            self._render(path, prompts, size_px, seeds=seeds)
        return path

    def pipeline_of(self, images: ImageSet, size_px: int) -> Path | None:
        """Return the pipeline folder of what draws a set, none for renders.

        Raises:
            ConfigError: It is another source's, and there is none; or a source's, and of another size than its own.
        """
        if images == "renders":
            return None
        if size_px != RESOLUTION_PX:
            raise ConfigError(
                "The miniature sources draw pictures of one size only",
                found=f"image_size_px={size_px} with images={images}",
                expected=f"image_size_px={RESOLUTION_PX}, or images=renders",
                fix="Let the arms of this study train on renders.",
            )
        if images == "other" and self.other is None:
            raise ConfigError(
                "An arm trains on another source's images, and there is no other source",
                found="no --other-source",
                expected="a pipeline folder, such as `l2p world train-source` makes",
                fix="Name it with --other-source, or leave the study data out.",
            )
        return self.other if images == "other" else self.source

    def _draw(self, path: Path, pipeline: Path, prompts: list[Prompt], *, seeds: int) -> None:
        synthesize(
            open_pipeline(pipeline, dtype=torch.float32).to(fastest_device()),
            prompts,
            path,
            seeds_per_prompt=seeds,
            image_size_px=RESOLUTION_PX,
            num_steps=self.config.num_steps,
            guidance_scale=self.config.guidance_scale,
            batch_size=PICTURES_AT_A_TIME,
            shard_size=PICTURES_AT_A_TIME,
            seed=self.seed,
            source=source_facts(pipeline),
        )

    def _render(self, path: Path, prompts: list[Prompt], size_px: int, *, seeds: int) -> None:
        if path.exists():
            return
        generator, records = random.Random(self.seed), []
        with new_folder(path) as part:
            for prompt in prompts:
                for seed in range(seeds):
                    name = f"{prompt.id}-{seed}.png"
                    scene = compose_scene(self.level, caption_of(self.level, prompt.prompt), generator=generator)
                    Image.fromarray(render(scene, size_px)).save(part / name)
                    records.append({"file_name": name, "prompt": prompt.prompt, "seed": seed})
            write_records(part / "metadata.jsonl", records)


def _prompt(index: int, text: str) -> Prompt:
    return Prompt(id=f"{index:06d}", prompt=text, major_class=MAJOR_CLASS, sub_class="scene")
