"""Runs a tiny training in its own process, so that tests can kill it: ``run_tiny.py OUT STEPS [KEY=VALUE ...]``."""

import os
import sys
from pathlib import Path

import torch
from tests.tiny import HEAD, PROMPTS, tiny_lift, tiny_pipeline

from latent2pixel.cli.app import EXIT_TERMINATED
from latent2pixel.config import apply_overrides
from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.errors import Interrupted
from latent2pixel.families import family_of
from latent2pixel.train import TrainConfig, TrainReport, train
from latent2pixel.train.validation import Validate, Validation

SETTINGS = {
    "batch_size": 2,
    "image_size_px": 32,
    "learning_rate": 1e-3,
    "num_blocks": 1,
    "ema_decay": 0.9,
    "precision": "no",
    "checkpoint_every": 2,
    "validate_every": 0,
    "warmup_steps": 2,
}


class TinyImages(torch.utils.data.Dataset):
    """Five random pictures with alternating prompts; one of them may be no numbers."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(3, 32, 32, generator=generator) * 2 - 1
        image = image * torch.nan if index == self.broken else image
        return {"image": image, "prompt": PROMPTS[index % 2], "seed": index}


def run(
    out: Path,
    steps: int,
    *,
    validate: Validate | None = None,
    dtype: torch.dtype = torch.float32,
    broken_image: int | None = None,
    **overrides: object,
) -> tuple[object, TrainReport]:
    """Train the tiny model; with the objective "source" a lifted one."""
    lift = tiny_lift() if overrides.get("objective") == "source" else None
    source = tiny_pipeline("z_image")
    pipe = build_pixel_pipeline(source, patch_size=16, head=HEAD, lift=lift, seed=0).to(dtype)
    family = family_of(pipe.transformer)
    prompts = ["", *PROMPTS]
    encoded = dict(zip(prompts, family.encode(pipe, prompts), strict=True))
    config = TrainConfig(steps=steps, **{**SETTINGS, **overrides})
    return pipe, train(
        pipe,
        Batches(
            TinyImages(broken_image),
            BatchPlan([0] * 5, batch_size=config.batch_size, seed=config.seed),
            seed=config.seed,
        ),
        encoded.__getitem__,
        out=out,
        config=config,
        latents=lambda images_BCHW: family.tokens(family.latents(source, images_BCHW)),
        validate=validate,
    )


def sample_once(out: Path) -> Validate:
    """Return a validation that samples a picture and leaves a file for each process that has done so."""

    def sample(_step: int, pipe: object) -> Validation:
        pipe(prompt=PROMPTS[:1], height=32, width=32, num_inference_steps=1, guidance_scale=0.0, output_type="pt")
        (out / f"seen-{os.environ.get('RANK', '0')}").touch()
        return Validation()

    return sample


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = apply_overrides({}, sys.argv[3:])
    try:
        run(Path(sys.argv[1]), int(sys.argv[2]), validate=sample_once(Path(sys.argv[1])), **settings)
    except Interrupted:
        sys.exit(EXIT_TERMINATED)
