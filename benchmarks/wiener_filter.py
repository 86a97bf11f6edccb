"""What a Wiener filter can still take off the lift's error: fixed, fitted at each noise level, and overlapping.

python benchmarks/wiener_filter.py OUT [--seed 0] [--warm-up 300] [--json]

OUT is a folder of benchmarks/convergence.py, whose images of that seed are used (made if missing). The model leaves
``r = x0 - predicted`` of an image; a filter sees ``y = x_sigma - (1 - sigma) predicted`` and estimates r patch by
patch, each direction of r's covariance by its own gain. "fixed": the gains of the product's `lift_wiener`, from the
residual of the decode alone. "fitted": the least-squares gains of y on r at each noise level, fitted on 600 images.
"overlapping": the mean of four such estimates, the patches moved by half a patch. Error: squared velocity error on the
96 validation images.
"""

import argparse
import json
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from convergence import PATCH, SIGMAS, SIZE_PX, Bench
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.families import family_of
from latent2pixel.flow import add_noise
from latent2pixel.io.pipeline_folder import find_pipeline_folder
from latent2pixel.model.predict import predict_velocity
from latent2pixel.world.source_model import SHIPPED_SOURCE

NUM_FITTED, BATCH_SIZE = 600, 60
SHIFTS = ((0, 0), (0, PATCH // 2), (PATCH // 2, 0), (PATCH // 2, PATCH // 2))


def main() -> None:
    """Print one line for each warm-up and filter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=300, help="steps of the trained warm-up")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    source = find_pipeline_folder(str(SHIPPED_SOURCE))
    bench = Bench(source, arguments.out / f"seed-{arguments.seed}", arguments.seed, quick=False)
    bench.make_images()
    errors: dict[str, dict[str, list[float]]] = {}
    for steps in (0, arguments.warm_up):
        pipe, _ = bench.lifted(steps=steps)
        errors[f"{steps} steps"] = filtered_errors(pipe, bench)
    pipe, _ = bench.lifted(steps=0, wiener=True)
    errors["0 steps"]["fixed"] = [leaves(pipe, bench, "validation", sigma)[0].square().mean().item() / sigma**2
                                  for sigma in SIGMAS]  # fmt: skip
    machine = {"date": date.today().isoformat(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "sigmas": SIGMAS, "errors": errors} | machine))
        return
    print("| warm-up | filter | " + " | ".join(str(sigma) for sigma in SIGMAS) + " |")
    print("| --- " * (2 + len(SIGMAS)) + "|")
    for steps, filters in errors.items():
        for name, values in filters.items():
            print(f"| {steps} | {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    print(f"{machine['date']}, {machine['threads']} threads {platform.machine()}, torch {machine['torch']}")


def filtered_errors(pipe: Any, bench: Bench) -> dict[str, list[float]]:
    """Return the errors at every noise level without a filter and with the fitted ones."""
    errors: dict[str, list[float]] = {"none": [], "fitted": [], "overlapping": []}
    for sigma in SIGMAS:
        left_BCHW, seen_BCHW = leaves(pipe, bench, "images", sigma)
        basis_DD, gain_D = fitted_filter(left_BCHW, seen_BCHW)
        left_BCHW, seen_BCHW = leaves(pipe, bench, "validation", sigma)
        estimates = dict(shifted_estimates(seen_BCHW, basis_DD, gain_D))
        for name, estimate_BCHW in (
            ("none", torch.zeros_like(left_BCHW)),
            ("fitted", estimates[0, 0]),
            ("overlapping", torch.stack(list(estimates.values())).mean(0)),
        ):
            errors[name].append((left_BCHW - estimate_BCHW).square().mean().item() / sigma**2)
    return errors


@torch.no_grad()
def leaves(pipe: Any, bench: Bench, folder: str, sigma: float) -> tuple[Tensor, Tensor]:
    """Return what the model leaves of clean images and what a filter sees of it, each (B, C, H, W)."""
    family = family_of(pipe.transformer)
    dataset = ImageFolderDataset(bench.out / folder, SIZE_PX)
    generator = torch.Generator().manual_seed(len(folder))
    left, seen = [], []
    for start in range(0, min(len(dataset), NUM_FITTED), BATCH_SIZE):
        indices = range(start, min(start + BATCH_SIZE, len(dataset)))
        clean_BCHW = torch.stack([dataset[index]["image"] for index in indices])
        prompts = [dataset.prompts[index] for index in indices]
        conditioning = family.collate(
            pipe.transformer, family.encode(pipe, prompts), (SIZE_PX // PATCH, SIZE_PX // PATCH)
        )
        sigma_B = torch.full((len(clean_BCHW),), sigma)
        noisy_BCHW = add_noise(clean_BCHW, torch.randn(clean_BCHW.shape, generator=generator), sigma_B)
        predicted_BCHW = noisy_BCHW - sigma * predict_velocity(pipe.transformer, noisy_BCHW, sigma_B, conditioning)
        left.append(clean_BCHW - predicted_BCHW)
        seen.append(noisy_BCHW - (1 - sigma) * predicted_BCHW)
    return torch.cat(left), torch.cat(seen)


def fitted_filter(left_BCHW: Tensor, seen_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvectors of the covariance of what is left, (D, D), and the gain of each, (D,)."""
    left_ND, seen_ND = (patches(images_BCHW) for images_BCHW in (left_BCHW, seen_BCHW))
    _, basis_DD = torch.linalg.eigh(left_ND.T @ left_ND / len(left_ND))
    left_ND, seen_ND = left_ND @ basis_DD, seen_ND @ basis_DD
    return basis_DD, (left_ND * seen_ND).mean(0) / seen_ND.square().mean(0)


def shifted_estimates(seen_BCHW: Tensor, basis_DD: Tensor, gain_D: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Yield each shift of the patches and the estimate with it, (B, C, H, W); shifted patches wrap around."""
    rows = seen_BCHW.shape[-2] // PATCH
    for shift in SHIFTS:
        moved_BCHW = seen_BCHW.roll(shift, dims=(-2, -1))
        estimate_ND = patches(moved_BCHW) @ basis_DD * gain_D @ basis_DD.T
        estimate_BDhw = estimate_ND.view(len(seen_BCHW), rows, -1, len(gain_D)).permute(0, 3, 1, 2)
        estimate_BCHW = functional.pixel_shuffle(estimate_BDhw, PATCH).to(seen_BCHW.dtype)
        yield shift, estimate_BCHW.roll((-shift[0], -shift[1]), dims=(-2, -1))


def patches(images_BCHW: Tensor) -> Tensor:
    """Return all patches, (N, D), float64."""
    return functional.pixel_unshuffle(images_BCHW.double(), PATCH).permute(0, 2, 3, 1).flatten(0, 2)


if __name__ == "__main__":
    main()
