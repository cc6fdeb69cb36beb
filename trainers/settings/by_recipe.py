"""The settings that a base's recipe decides."""

from __future__ import annotations

from dataclasses import dataclass

from .formulas import OF_RECIPE, SAME_SHIFT
from .optimizers import OPTIMIZERS
from .recipes import AUTO, LACKING, Recipe
from .settings import AS_CAPTIONED, Settings
from .targets import EVERYTHING
from .usual_rates import in_short

SUBJECT, STYLE = "subject", "style"
WHAT = (SUBJECT, STYLE)
LORA_RATE = 1e-4  # of LoRA on most bases: what other methods' usual rates are compared with


@dataclass(frozen=True)
class Effort:
    """How much is spent on a training, relative to the recipe. words: for the help page. smallest: on the recipe's
    smallest pictures.
    """

    words: str
    steps: float
    rank: float
    smallest: bool = False


QUICK, USUAL, THOROUGH = "quick", "usual", "thorough"
HOW: dict[str, Effort] = {
    QUICK: Effort("half the steps and half the rank, with the smallest of the sides", 0.5, 0.5, smallest=True),
    USUAL: Effort("the recipe", 1, 1),
    THOROUGH: Effort("twice the steps", 2, 1),
}


@dataclass(frozen=True)
class Wishes:
    """What a user asks of a recipe: for what and how, and values in place of the recipe's; 0 and AUTO leave it that.

    base: the title of the recipe.
    """

    what: str = SUBJECT
    how: str = USUAL
    base: str = AUTO
    steps: int = 0
    learning_rate: float = 0.0
    rank: int = 0
    layers: str = AUTO


def with_noise(settings: Settings, recipe: Recipe | None) -> Settings:
    """The settings with the recipe's noise levels where they ask for those; those of `auto` without a recipe.

    A shift and a range of the user's own stay. What was not asked for stays as it is: a workflow that was saved before
    there were recipes has `auto`, and trains the same.
    """
    if settings.timesteps != OF_RECIPE:
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
    if settings.timesteps != OF_RECIPE:
        return ""
    if recipe is None:
        return f"noise levels: there is no recipe for {title}, so they are as with auto"
    return f"noise levels of the recipe {recipe.title}: {recipe.noise.words()}"


def rate_of(settings: Settings, recipe: Recipe | None) -> float:
    """The learning rate of the settings' method and optimizer on the recipe's base, or on any without a recipe.

    What is usual for the method, as near to LoRA's rate as that is, times what the base wants relative to others.
    An optimizer that finds its own rate gets 1.
    """
    usual, scale = settings.training.usual_rates, OPTIMIZERS[settings.optimizer].to_adamw
    if scale is None:
        return 1.0
    own = LORA_RATE if usual is None else min(max(LORA_RATE, usual.lowest), usual.highest)
    relative = 1.0 if recipe is None else recipe.rate / LORA_RATE
    return float(f"{own * relative * scale:.6g}")


def with_usual_rate(settings: Settings, recipe: Recipe | None) -> Settings:
    """The settings with the usual learning rate, and with the recipe's noise levels and guidance where these are left
    open: what a training node asks for by a rate of 0. Steps, rank and layers stay.

    A training node that was saved before there were recipes has a rate of its own, and trains the same.
    """
    settings = settings.changed(learning_rate=rate_of(settings, recipe))
    if recipe is None:
        return settings
    if settings.timesteps == "auto":
        settings = settings.changed(timesteps=OF_RECIPE)
    if settings.guidance == AS_CAPTIONED and recipe.guidance is not None:
        settings = settings.changed(guidance=recipe.guidance)
    return with_noise(settings, recipe)


def with_recipe(settings: Settings, recipe: Recipe, wishes: Wishes, empty: bool) -> Settings:
    """The settings with the recipe's values, except where the wishes have others or the settings are not at their
    defaults (of those, steps, rank, rate and layers are the recipe's in any case).

    empty: whether there is an empty caption, which dropout needs. Steps count pictures one by one. A textual inversion
    has the noise levels and the guidance alone.
    """
    values: dict[str, object] = {}
    if settings.guidance == AS_CAPTIONED and recipe.guidance is not None:
        values["guidance"] = recipe.guidance
    if empty and not settings.caption_dropout:
        values["caption_dropout"] = recipe.dropout
    if settings.timesteps == "auto":
        settings = settings.changed(timesteps=OF_RECIPE)
    settings = with_noise(settings, recipe).changed(**values)
    if settings.trains_token:
        return settings
    effort, training = HOW[wishes.how], settings.training
    pictures = recipe.steps[WHAT.index(wishes.what)] * effort.steps
    steps = wishes.steps or max(1, round(pictures / (settings.batch_size * settings.accumulation)))
    values = {"steps": steps, "learning_rate": wishes.learning_rate or rate_of(settings, recipe)}
    if training.has_rank:
        values["rank"] = wishes.rank or max(1, round(recipe.rank * effort.rank))
    values["layers"] = wishes.layers if wishes.layers != AUTO else EVERYTHING if training.small else recipe.layers
    if settings.schedule == Settings.schedule:
        values["schedule"] = recipe.schedule
    if not settings.warm_up:
        values["warm_up"] = min(recipe.warm_up, steps // 10)
    return settings.changed(**values)


def noise_levels(settings: Settings) -> str:
    """The noise levels of the settings in words."""
    noise = settings.timesteps
    if settings.shift_by_size != SAME_SHIFT:
        noise += f" with a shift by size as {settings.shift_by_size}"
    elif settings.shift not in (0, 1):
        noise += f" with a shift of {settings.shift:g}"
    return noise


def left_open(settings: Settings) -> list[str]:
    """The noise levels and the guidance of the settings in words."""
    guided = settings.guidance != AS_CAPTIONED
    return [f"noise levels {noise_levels(settings)}"] + [f"guidance {settings.guidance:g}"] * guided


def usual_rate_note(settings: Settings, recipe: Recipe | None) -> str:
    """A line on a learning rate that was left open, for the node before the first step and for the report."""
    line = f"learning rate {in_short(settings.learning_rate)}: usual for {settings.method} with {settings.optimizer}"
    if recipe is None:
        return f"{line}; this base has no recipe, so noise levels stay at {noise_levels(settings)}"
    return f"{line} on {recipe.title}; {', '.join(left_open(settings))}"


def chosen_values(settings: Settings, recipe: Recipe, wishes: Wishes) -> str:
    """A line on what was chosen by a recipe, for the node before the first step and for the report."""
    parts = []
    if not settings.trains_token:
        parts = [f"{settings.steps} steps", f"learning rate {in_short(settings.learning_rate)}"]
        parts += [f"rank {settings.rank}"] * settings.training.has_rank
        parts += [f"layers {settings.layers}"]
        parts += [f"warm-up {settings.warm_up}"] * bool(settings.warm_up)
        parts += [f"schedule {settings.schedule}"] * (settings.schedule != Settings.schedule)
    parts += left_open(settings)
    if settings.caption_dropout:
        parts.append(f"caption dropout {settings.caption_dropout:g}")
    return f"recipe {recipe.title}, {wishes.what}, {wishes.how}: {', '.join(parts)}"


def size_note(recipe: Recipe, wishes: Wishes, area: int) -> str:
    """A line on pictures that are far smaller than the recipe's; empty where they are not. area: of the largest."""
    side = min(recipe.sides) if HOW[wishes.how].smallest else recipe.sides[0]
    if area > 0.7 * side**2:
        return ""
    return (
        f"the pictures have the area of {area**0.5:.0f} x {area**0.5:.0f} pixels, but the recipe {recipe.title} uses "
        f"{side} x {side}: larger ones learn more detail"
    )


def lacking(name: str, title: str, rate_open: bool) -> str:
    """A line on a base without a recipe.

    name: of its class. title: what people call it. rate_open: whether the rate was left open (see `usual_rate_note`).
    """
    why = LACKING.get(name, "this pack does not know it")
    settings = "all settings but the learning rate" if rate_open else "all settings"
    return f"there is no recipe for {title} ({why}): {settings} stay as set at the nodes"
