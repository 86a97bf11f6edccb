"""Our own run: the paper's method from a closed-form start."""

from dataclasses import replace

from latent2pixel.recipes.paper import paper
from latent2pixel.recipes.recipe import Recipe


def lift() -> Recipe:
    """Return the paper's run with fitted new parts, and the source's own weights at a tenth of the rate."""
    published = paper()
    return Recipe(
        conversion=replace(published.conversion, initialisation="lift"),
        training=replace(published.training, trunk_rate_factor=0.1),
    )
