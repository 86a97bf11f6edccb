"""Compare the images of a source and of its pixel model: two folders in, one record out.

Shape letters: B batch, N pairs, M crops, K values of one image, D feature width, C channels, H height, W width.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.clip_score import ClipScorer
from latent2pixel.evaluate.distances import inception_score, polynomial_mmd
from latent2pixel.evaluate.diversity import ImageDistance, feature_diversity, image_diversity
from latent2pixel.evaluate.features import FeatureNetwork, load_filters
from latent2pixel.evaluate.pair_stream import PairStream
from latent2pixel.evaluate.pairs import Pair, Problem, Side, load_pairs, pair_folders, problem_order
from latent2pixel.evaluate.spectrum import BAND_NAMES
from latent2pixel.evaluate.uncertainty import Estimate, bootstrap_mean, retention
from latent2pixel.seeds import step_generator

PUBLISHED_CROP_PX = 299
"""Inception's own input size; the crops of the published FID-patch (PixVerve's code, 20 of them for each pair)."""

NUM_SPLITS, MIN_SPLIT_IMAGES = 10, 5000
"""The customary parts of the inception score. It cannot exceed the images in a part, so small sets stay whole."""


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What a comparison measures, and with which numbers."""

    seed: int = 0
    """Of crops, subsets and resamples."""
    patch_size: int | None = None
    """Pixels along a patch of the pixel model, for the patch-grid ratio; None leaves that out."""
    num_crops: int = 20
    """Random crops of each image for FID-patch and patch MMD, the same places in both images of a pair; 0 leaves both
    out."""
    crop_px: int | None = None
    """Side of a crop. None takes 299 where every image is at least twice as large, otherwise half of the shortest
    side."""
    batch_size: int = 8
    """Pairs in memory at a time; the result is the same but for rounding."""

    def __post_init__(self) -> None:
        for name, least in (("num_crops", 0), ("batch_size", 1), ("crop_px", 1), ("patch_size", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    "A setting of the comparison is too small",
                    found=f"{name} = {value}",
                    expected=f"{least} or more",
                    fix=f"Set {name} higher.",
                )


def compare_folders(
    source_folder: Path,
    pixel_folder: Path,
    *,
    settings: ComparisonSettings | None = None,
    network: FeatureNetwork | None = None,
    clip: ClipScorer | None = None,
    distance: ImageDistance | None = None,
) -> dict[str, Any]:
    """Return everything that two folders of images of the same prompts and seeds say of each other.

    Images are read some at a time; only features and a few numbers of each stay: 320 MB for 20000 pairs with features
    1000 wide, of whole images and of one crop each, and the same again while they are joined.

    Args:
        source_folder: Images of the source: it or its sub-folders hold ``metadata.jsonl`` (file_name, prompt, seed).
        pixel_folder: Images of the pixel model, likewise. They pair by prompt and seed.
        settings: Seeds, crops, patch size; None takes the defaults.
        network: Gives the features of FID, KID and diversity; None takes the fixed filters, which need no download.
        clip: Scores images against prompts; None leaves that out.
        distance: Of two images, such as LPIPS, for seed diversity and between the images of a pair; None leaves the
            diversity out, and takes the network's features for the pairs.

    Returns:
        An object that ``json.dumps`` takes as it is. Every image that is in no number is listed under "problems" with
        its name; every measurement that was not made, under "left_out" with its reason; under "pairs" how far apart the
        images of each pair are.

    Raises:
        DataError: Fewer than two pairs, images that are too small, or a folder without records.
        ConfigError: Settings that do not fit the images, or torchmetrics is missing.
    """
    settings, network = settings or ComparisonSettings(), network or load_filters()
    folders: dict[Side, Path] = {"source": source_folder, "pixel": pixel_folder}
    pairs, problems, listed = pair_folders(source_folder, pixel_folder)
    _require_two_pairs(len(pairs), problems, listed)
    crop_px = _crop_px(pairs, settings)
    _require_whole_patches(pairs, settings.patch_size)
    stream = PairStream(
        network=network, clip=clip, distance=distance, patch_size=settings.patch_size, num_crops=settings.num_crops,
        crop_px=crop_px, num_pairs=len(pairs), seed=settings.seed,
    )  # fmt: skip
    for batch, source_BCHW, pixel_BCHW in load_pairs(pairs, folders, batch_size=settings.batch_size, problems=problems):
        stream.add(batch, source_BCHW, pixel_BCHW)
    _require_two_pairs(len(stream.pairs), problems, listed)
    results, left_out = _results(stream, settings=settings, clip=clip)
    if distance is None:
        left_out["diversity/images"] = "no distance of images was given"
    elif "diversity/" + network.name in results:
        results["diversity/images"] = _image_diversity(stream.pairs, folders, distance, settings=settings)
    problems.sort(key=problem_order)
    return {
        "source": str(source_folder),
        "pixel": str(pixel_folder),
        "settings": {**asdict(settings), "crop_px": crop_px},
        "network": network.as_json(),
        "clip": None if clip is None else clip.as_json(),
        "num_listed": dict(listed),
        "num_pairs": len(stream.pairs),
        "num_prompts": len({pair.prompt for pair in stream.pairs}),
        "num_problems": {side: _count_kinds(problems, side) for side in folders},
        "problems": [problem.as_json() for problem in problems],
        "pairs": _distances_of_pairs(stream),
        "results": results,
        "left_out": left_out,
    }


def _results(
    stream: PairStream, *, settings: ComparisonSettings, clip: ClipScorer | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the numbers by name, and the reason of each one that is not there."""
    name, seed = stream.network.name, settings.seed
    left_out: dict[str, str] = {}
    prompts = [pair.prompt for pair in stream.pairs]
    between, distances = stream.distances()
    bands_N2K = torch.cat(stream.bands)
    results: dict[str, Any] = {
        "spectrum": {band: _both(bands_N2K[..., index], prompts, seed=seed) for index, band in enumerate(BAND_NAMES)}
    }
    source_ND, pixel_ND = torch.cat(stream.features).unbind(1)
    results[f"fid/{name}"] = stream.frechet.result()
    results[f"kid/{name}"] = polynomial_mmd(source_ND, pixel_ND, generator=_generator(seed, "kid"))
    mean = bootstrap_mean(distances, prompts, generator=_generator(seed, "bootstrap"))
    results[f"pair-distance/{between}"] = asdict(mean)
    if settings.num_crops:
        results |= _of_crops(stream, seed=seed)
    else:
        left_out |= dict.fromkeys((f"fid-patch/{name}", f"mmd-patch/{name}"), "no crops were asked for (num_crops)")
    if stream.logits:
        logits_N2K = torch.cat(stream.logits)
        splits = NUM_SPLITS if len(logits_N2K) >= MIN_SPLIT_IMAGES else 1
        sides = zip(("source", "pixel"), logits_N2K.unbind(1), strict=True)
        results[f"is/{name}"] = {
            side: inception_score(values_NK, seed=seed, num_splits=splits) for side, values_NK in sides
        }
    else:
        left_out[f"is/{name}"] = "the network knows no classes"
    if clip is None:
        left_out["clip"] = "no CLIP was given"
    else:
        scores = _both(torch.cat(stream.clip_scores), prompts, seed=seed)
        results[clip.name] = {**scores, "num_truncated": clip.num_truncated(prompts)}
    if settings.patch_size is None:
        left_out["patch_grid"] = "no patch_size was given"
    else:
        results["patch_grid"] = _patch_grid(stream, seed=seed)
    several = _prompts_with_seeds(stream.pairs)
    if several:
        values = [
            [feature_diversity(features_ND[rows]) for rows in several.values()] for features_ND in (source_ND, pixel_ND)
        ]
        results[f"diversity/{name}"] = _both(torch.tensor(values).T, list(several), seed=seed)
    else:
        left_out["diversity"] = "no prompt has two pairs"
    return results, left_out


def _distances_of_pairs(stream: PairStream) -> list[dict[str, Any]]:
    """Return how far apart the images of each pair are, for whoever wants to look at the worst."""
    _, distances = stream.distances()
    return [
        {"prompt": pair.prompt, "seed": pair.seed, "distance": distance}
        for pair, distance in zip(stream.pairs, distances, strict=True)
    ]


def _count_kinds(problems: Sequence[Problem], side: Side) -> dict[str, int]:
    return dict(sorted(Counter(problem.kind for problem in problems if problem.side == side).items()))


def _of_crops(stream: PairStream, *, seed: int) -> dict[str, Any]:
    """Return the distances between crops."""
    crops = {"num_crops": stream.num_crops, "crop_px": stream.crop_px, "seed": seed}
    source_MD, pixel_MD = torch.cat(stream.crop_features).unbind(1)
    kept = polynomial_mmd(source_MD, pixel_MD, generator=_generator(seed, "mmd-patch"))
    return {
        f"fid-patch/{stream.network.name}": {**stream.frechet_of_crops.result(), **crops},
        f"mmd-patch/{stream.network.name}": {**kept, **crops, "num_crops": stream.num_kept_crops},
    }


def _both(values_N2: Tensor, prompts: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Return the means of source and pixel model, and the paired ratio of the two."""
    source, pixel = (values_N.tolist() for values_N in values_N2.double().unbind(1))

    def draws() -> torch.Generator:
        return _generator(seed, "bootstrap")

    estimates: dict[str, Estimate] = {
        "source": bootstrap_mean(source, prompts, generator=draws()),
        "pixel": bootstrap_mean(pixel, prompts, generator=draws()),
        "pixel_over_source": retention(source, pixel, prompts, generator=draws()),
    }
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _patch_grid(stream: PairStream, *, seed: int) -> dict[str, Any]:
    """Return the patch-grid ratios of the pairs whose images both have structure."""
    chosen = [index for index, ratios in enumerate(stream.patch_grid) if ratios is not None]
    flat = [pair for pair, ratios in zip(stream.pairs, stream.patch_grid, strict=True) if ratios is None]
    result: dict[str, Any] = {
        "patch_size": stream.patch_size,
        "without_structure": [{"prompt": pair.prompt, "seed": pair.seed} for pair in flat],
    }
    if chosen:
        values_N2 = torch.tensor([stream.patch_grid[index] for index in chosen], dtype=torch.float64)
        result |= _both(values_N2, [stream.pairs[index].prompt for index in chosen], seed=seed)
    return result


def _image_diversity(
    pairs: list[Pair], folders: dict[Side, Path], distance: ImageDistance, *, settings: ComparisonSettings
) -> dict[str, Any]:
    """Return seed diversity by a distance of images; a prompt's images are read again, one prompt at a time."""
    values = []
    several = _prompts_with_seeds(pairs)
    for rows in several.values():
        # Loaded once before, so nothing is broken now; different sizes of one prompt are told, not compared.
        loaded = list(load_pairs([pairs[row] for row in rows], folders, batch_size=len(rows), problems=[]))
        if len(loaded) != 1 or len(loaded[0][0]) != len(rows):
            raise DataError(
                "Seed diversity by a distance of images cannot be taken",
                found=f"images of several sizes, or changed on disk, for the prompt {pairs[rows[0]].prompt!r}",
                expected="images of one size for each prompt",
                fix="Make them again, or leave the distance out.",
            )
        values.append([image_diversity(images_SCHW, distance) for images_SCHW in loaded[0][1:]])
    return _both(torch.tensor(values), list(several), seed=settings.seed)


def _prompts_with_seeds(pairs: list[Pair]) -> dict[str, list[int]]:
    """Return the rows of each prompt that has several pairs."""
    rows: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        rows.setdefault(pair.prompt, []).append(index)
    return {prompt: several for prompt, several in rows.items() if len(several) > 1}


def _generator(seed: int, purpose: str) -> torch.Generator:
    """Return a generator of its own for each purpose, so that one measurement more changes no other."""
    return step_generator(seed, int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:6], "big"))


def _crop_px(pairs: list[Pair], settings: ComparisonSettings) -> int:
    shortest = min(min(pair.size_px) for pair in pairs)
    return min(PUBLISHED_CROP_PX, shortest // 2) if settings.crop_px is None else settings.crop_px


def _require_whole_patches(pairs: list[Pair], patch_size: int | None) -> None:
    for size_px in {pair.size_px for pair in pairs}:
        if patch_size is not None and (any(side % patch_size for side in size_px) or min(size_px) < 2 * patch_size):
            raise ConfigError(
                "The patch-grid ratio cannot be taken",
                found=f"images of {size_px[1]} x {size_px[0]} px and patch_size = {patch_size}",
                expected="whole patches, at least two by two of them",
                fix="Set patch_size to that of the pixel model, or leave it out.",
            )


def _require_two_pairs(number: int, problems: list[Problem], listed: dict[Side, int]) -> None:
    if number < 2:
        first = (
            f"; the first problem: {problems[0].file} ({problems[0].kind}: {problems[0].detail})" if problems else ""
        )
        raise DataError(
            "There is nothing to compare",
            found=f"{number} pairs from {listed['source']} and {listed['pixel']} images{first}",
            expected="two or more whole images with equal prompt and seed in both folders",
            fix="Make both folders from the same prompts and seeds.",
        )
