"""What a training of published sources takes on a card, by the estimate of `l2p train --dry-run`.

python benchmarks/train_memory.py [--releases NAME ...] [--size 1024] [--images 1] [--json]

From published configurations, without a weight: recipe `paper`, activations recomputed, one image or more at a time, a
prompt of 200 tokens where the source takes prompts at their own length. Frozen weights as stored (bfloat16), in int8
and in NF4; AdamW in float32 and in 8 bits. GiB; the last columns are the largest batch of one process that fits a card.
"""

import argparse
import json
import sys
import time
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from latent2pixel.families import load_pixel_class
from latent2pixel.families.catalogue import full_config, releases
from latent2pixel.train import TrainConfig
from latent2pixel.train.memory import measure_training
from latent2pixel.workflow.dry_run import describe

PROMPT_TOKENS = 200
"""Of a detailed caption, as those of `l2p data filter`."""
TOLD: dict[str, dict[str, tuple[int, ...]]] = {
    "z_image": {"cap_feats": (PROMPT_TOKENS, 2560)},
    # FLUX pads every prompt to its pipeline's 512 tokens.
    "flux": {"encoder_hidden_states": (512, 4096), "pooled_projections": (768,)},
    "qwen": {"encoder_hidden_states": (PROMPT_TOKENS, 3584)},
}
"""Shapes of an encoded prompt by family: tokens, and widths of the released text encoders."""
WAYS: list[dict[str, Any]] = [
    {"frozen_weights": "stored", "optimizer": "adamw"},
    {"frozen_weights": "int8", "optimizer": "adamw"},
    {"frozen_weights": "int8", "optimizer": "adamw_8bit"},
    {"frozen_weights": "nf4", "optimizer": "adamw_8bit"},
]
CARDS_GB = (16, 24, 48, 80)
PARTS = ("frozen_weights", "trained_weights", "gradients", "optimizer_state", "activations", "transient")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", nargs="+", default=["Z-Image", "FLUX.1 dev", "Qwen-Image"])
    parser.add_argument("--size", type=int, default=1024, help="image size in pixels")
    parser.add_argument("--images", type=int, default=1, help="of one process at a time")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.releases:
        for freezing in ("paper", "output"):
            config = TrainConfig(freezing=freezing, image_size_px=arguments.size)
            rows += rows_of(name, config, images=arguments.images)
    if arguments.json:
        print(json.dumps({"unit": "GiB", "rows": rows}))
        return
    print(
        "| source | trains | frozen weights | optimiser | " + " | ".join(part.replace("_", " ") for part in PARTS),
        end="",
    )
    print(" | peak | " + " | ".join(f"{card} GB" for card in CARDS_GB) + " |")
    print("| --- " * (5 + len(PARTS) + len(CARDS_GB)) + "|")
    for row in rows:
        numbers = [f"{row['parts'][part]:.1f}" for part in PARTS] + [f"**{row['peak']:.1f}**"]
        batches = [str(row["largest_batch"][str(card)] or "no") for card in CARDS_GB]
        names = [row["release"], row["freezing"], row["frozen_weights"], row["optimizer"]]
        print("| " + " | ".join(names + numbers + batches) + " |")


def rows_of(name: str, config: TrainConfig, *, images: int) -> list[dict[str, Any]]:
    """Return the estimates of a release, one for each way to hold its weights."""
    release = next(each for each in releases() if each.release == name)
    model = load_pixel_class(release.family).from_config_of(full_config(release), pixel_patch_size=release.patch_px)
    told = {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in TOLD[release.family].items()}
    started = time.perf_counter()
    measured = measure_training(
        model, told, config=config, checkpointed=True, dtype=torch.bfloat16,
        mode=FakeTensorMode(allow_non_fake_inputs=True),
    )  # fmt: skip
    print(f"{name}, {config.freezing}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return [
        {"release": name, "freezing": config.freezing, **way}
        | describe(measured.estimate(**way), images=images, cards_gb=CARDS_GB)
        for way in WAYS
    ]


if __name__ == "__main__":
    main()
