"""Our own run: the paper's method from a closed-form start."""

from dataclasses import replace

from latent2pixel.recipes.paper import paper
from latent2pixel.recipes.recipe import Recipe


def lift() -> Recipe:
    """Return the paper's run with fitted new parts, and the source's own weights at a tenth of the rate."""
    published = paper()
    return Recipe(
        conversion=replace(published.conversion, initialisation="lift"),
        # A tenth has run once and is not tuned: dev/LOG.md, 2026-11-24.
        training=replace(published.training, trunk_rate_factor=0.1),
    )
