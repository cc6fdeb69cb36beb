"""The settings that a base's recipe decides."""

from __future__ import annotations

from .formulas import RECIPE, SAME_SHIFT
from .recipes import Recipe
from .settings import Settings


def with_noise(settings: Settings, recipe: Recipe | None) -> Settings:
    """The settings with the recipe's noise levels where they ask for those; those of `auto` without a recipe.

    A shift and a range of the user's own stay. What was not asked for stays as it is: a workflow that was saved before
    there were recipes has `auto`, and trains the same.
    """
    if settings.timesteps != RECIPE:
        return settings
    if recipe is None:
        return settings.changed(timesteps="auto")
    noise = recipe.noise
    values: dict[str, object] = {"timesteps": noise.distribution}
    if not settings.shift and settings.shift_by_size == SAME_SHIFT:
        values |= {"shift": noise.shift, "shift_by_size": noise.by_size or SAME_SHIFT}
    if (settings.lowest_noise, settings.highest_noise) == (0, 1):
        values |= {"lowest_noise": noise.lowest, "highest_noise": noise.highest}
    return settings.changed(**values)


def noise_note(settings: Settings, recipe: Recipe | None, title: str) -> str:
    """A line on the noise levels that a recipe gives; empty where none was asked for. title: the base's."""
    if settings.timesteps != RECIPE:
        return ""
    if recipe is None:
        return f"noise levels: there is no recipe of {title}, so they are as with auto"
    return f"noise levels of the recipe {recipe.title}: {recipe.noise.words()}"
