"""What a comparison keeps of each pair of images while they pass by.

Shape letters: B batch, M crops, K values of one image, D feature width, C channels, H height, W width; 2 stands for
source and pixel model.
"""

import hashlib

import torch
from torch import Tensor

from latent2pixel.errors import DataError
from latent2pixel.evaluate.clip_score import ClipScorer
from latent2pixel.evaluate.distances import FrechetDistance, crop_corners, crops
from latent2pixel.evaluate.diversity import ImageDistance
from latent2pixel.evaluate.features import FeatureNetwork
from latent2pixel.evaluate.pairs import Pair
from latent2pixel.evaluate.patch_grid import patch_grid_ratio
from latent2pixel.evaluate.spectrum import band_power
from latent2pixel.seeds import step_generator

MAX_KEPT_CROPS = 20_000
"""Crop features that the kernel distance keeps, of each side: 160 MB at a width of 2048. The Frechet distance takes
all, as it needs sums only."""


class PairStream:
    """Takes pairs of images, keeps their features and numbers.

    Args:
        network: Gives the features.
        clip: Scores images against prompts, or None.
        distance: Between the images of a pair, or None.
        patch_size: Patch of the grid ratio, or None.
        num_crops: Crops of each image, 0 for none.
        crop_px: Their side.
        num_pairs: Pairs that will come, at most.
        seed: Of the crops.
    """

    def __init__(
        self,
        *,
        network: FeatureNetwork,
        clip: ClipScorer | None,
        distance: ImageDistance | None,
        patch_size: int | None,
        num_crops: int,
        crop_px: int,
        num_pairs: int,
        seed: int,
    ) -> None:
        self.network, self.clip, self.distance, self.patch_size = network, clip, distance, patch_size
        self.num_crops, self.crop_px, self.seed = num_crops, crop_px, seed
        self.num_kept_crops = max(1, min(num_crops, MAX_KEPT_CROPS // num_pairs))
        self.pairs: list[Pair] = []
        self.bands: list[Tensor] = []
        self.features: list[Tensor] = []
        self.crop_features: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.clip_scores: list[Tensor] = []
        self.image_distances: list[Tensor] = []
        self.patch_grid: list[list[float] | None] = []

    def add(self, pairs: list[Pair], source_BCHW: Tensor, pixel_BCHW: Tensor) -> None:
        """Take some pairs and their images in [-1, 1], all of one size."""
        both = (source_BCHW, pixel_BCHW)
        self.pairs += pairs
        # One image at a time: a spectrum in float64 takes five times the memory of its image.
        spectra = [torch.cat([band_power(image_CHW[None]) for image_CHW in images_BCHW]) for images_BCHW in both]
        self.bands.append(torch.stack(spectra, dim=1))
        self._add_features(*both)
        if self.network.logits is not None:
            self.logits.append(torch.stack([self.network.logits(images_BCHW) for images_BCHW in both], dim=1))
        if self.clip is not None:
            prompts = [pair.prompt for pair in pairs]
            scores = [self.clip.scores(images_BCHW, prompts) for images_BCHW in both]
            self.clip_scores.append(torch.stack(scores, dim=1))
        if self.distance is not None:
            with torch.no_grad():
                self.image_distances.append(self.distance(pixel_BCHW, source_BCHW).cpu())
        for pair, source_CHW, pixel_CHW in zip(pairs, *both, strict=True):
            if self.num_crops:
                self._add_crops(pair, source_CHW, pixel_CHW)
            if self.patch_size is not None:
                self.patch_grid.append(_grid_ratios(source_CHW, pixel_CHW, self.patch_size))

    def distances(self) -> tuple[str, list[float]]:
        """Return how far apart the images of each pair are, and behind which name: features unless there is better."""
        if self.distance is not None:
            return "images", torch.cat(self.image_distances).tolist()
        source_ND, pixel_ND = torch.cat(self.features).unbind(1)
        return self.network.name, (source_ND - pixel_ND).norm(dim=1).tolist()

    def _add_features(self, source_BCHW: Tensor, pixel_BCHW: Tensor) -> None:
        source_BD, pixel_BD = self.network.features(source_BCHW), self.network.features(pixel_BCHW)
        if not self.features:
            self.frechet, self.frechet_of_crops = (FrechetDistance(source_BD.shape[1]) for _ in range(2))
        self.frechet.add(source_BD, pixel_BD)
        self.features.append(torch.stack([source_BD, pixel_BD], dim=1))

    def _add_crops(self, pair: Pair, source_CHW: Tensor, pixel_CHW: Tensor) -> None:
        # A function of prompt and seed, not of the pair's place: one broken image moves no other's crops.
        digest = hashlib.sha256(f"{pair.seed} {pair.prompt}".encode()).digest()
        generator = step_generator(self.seed, int.from_bytes(digest[:6], "big"))
        height, width = source_CHW.shape[-2:]
        corners = crop_corners(height, width, num=self.num_crops, size_px=self.crop_px, generator=generator)
        source_MD, pixel_MD = (
            self.network.features(crops(image_CHW, corners, size_px=self.crop_px))
            for image_CHW in (source_CHW, pixel_CHW)
        )
        self.frechet_of_crops.add(source_MD, pixel_MD)
        kept_M2D = torch.stack([source_MD, pixel_MD], dim=1)[: self.num_kept_crops]
        self.crop_features.append(kept_M2D.clone())


def _grid_ratios(source_CHW: Tensor, pixel_CHW: Tensor, patch_size: int) -> list[float] | None:
    """Return both images' ratios, or None where one has no structure to compare the borders with."""
    try:
        return [patch_grid_ratio(image_CHW[None], patch_size) for image_CHW in (source_CHW, pixel_CHW)]
    except DataError:
        return None
