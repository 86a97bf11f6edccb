"""The run behind the released Z-Image weights, as their file and code show it."""

from dataclasses import replace

from latent2pixel.recipes.paper import paper
from latent2pixel.recipes.recipe import Recipe


def released() -> Recipe:
    """Return the released run: as the paper's, but only the middle blocks are frozen and each image keeps its noise."""
    published = paper()
    return Recipe(
        conversion=replace(published.conversion, freezing="released"),
        training=replace(published.training, freezing="released", fixed_noise=True),
    )
