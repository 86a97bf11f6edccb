"""Our own run: a closed-form start, head and stem that learn without the trunk, then the paper's method if wanted."""

from dataclasses import replace

from latent2pixel.recipes.paper import paper
from latent2pixel.recipes.recipe import Recipe


def lift() -> Recipe:
    """Return the paper's run with fitted and warmed-up new parts, and the source's own weights at a tenth of the rate.

    The conversion alone makes pictures. On the miniature the training behind it lowers the error and the score
    (dev/LOG.md, 2026-11-25); the demo leaves it out.
    """
    published = paper()
    return Recipe(
        conversion=replace(published.conversion, initialisation="lift"),
        # A tenth has run once and is not tuned: dev/LOG.md, 2026-11-24.
        training=replace(published.training, trunk_rate_factor=0.1),
    )
