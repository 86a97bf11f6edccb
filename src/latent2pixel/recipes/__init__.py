"""One function for each published run; each returns a complete configuration."""

from collections.abc import Callable

from latent2pixel.errors import ConfigError
from latent2pixel.recipes.lift import lift
from latent2pixel.recipes.miniature import miniature
from latent2pixel.recipes.paper import paper
from latent2pixel.recipes.recipe import Recipe
from latent2pixel.recipes.released import released

RECIPES: dict[str, Callable[[], Recipe]] = {"lift": lift, "paper": paper, "released": released}
"""Name on the command line -> recipe."""

__all__ = ["RECIPES", "Recipe", "lift", "miniature", "paper", "released", "require_recipe"]


def require_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        ConfigError: No such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(
            "There is no recipe of that name",
            found=repr(name),
            expected=f"one of {', '.join(RECIPES)}",
            fix="Choose one of the listed names.",
        )
    return RECIPES[name]()
