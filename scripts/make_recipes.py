"""The text of docs/recipes.md, from the recipes of trainers/settings/recipes; make_generated.py writes it."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECIPES_PAGE = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- made by make generated PARTS=recipes -->", "<!-- end of what is made -->"
_HEAD = ("base", "noise levels", "guidance", "layers", "rank", "rate", "steps: subject, style", "sides, multiple of")
# By the names of a recipe's fields, for the lists of sources.
_WORDS = {
    "noise": "noise levels",
    "guidance": "guidance",
    "dropout": "caption dropout",
    "layers": "layers",
    "rank": "rank",
    "rate": "learning rate",
    "schedule": "schedule",
    "warm_up": "warm-up",
    "steps": "steps",
    "sides": "sides",
    "multiple": "multiple",
}


def row(*cells: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def number(value: float) -> str:
    """A rate as people write it: 2e-5."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def value(recipe: Any, name: str) -> str:
    """A value of a recipe in words."""
    content = getattr(recipe, name)
    if name == "noise":
        words: str = content.words()
        return words
    if name == "rate":
        return number(content)
    return ", ".join(map(str, content)) if isinstance(content, tuple) else f"{content}"


def tables(recipes: Any, shifts: Any) -> str:
    """The tables of all recipes, of the shifts by size and of the bases without one; the sources of each."""
    lines = [row(*_HEAD), row(*["---"] * len(_HEAD))]
    for recipe in recipes.RECIPES:
        guidance = "-" if recipe.guidance is None else f"{recipe.guidance:g}"
        cells = (recipe.title, recipe.noise.words(), guidance, recipe.layers, recipe.rank, number(recipe.rate))
        sides = f"{value(recipe, 'sides')}; {recipe.multiple}"
        lines.append(row(*cells, value(recipe, "steps"), sides))
    lines += ["", "Shifts by size, at squares of these sides in pixels:", ""]
    sides = (512, 768, 1024, 1328)
    lines += [row("as", *sides), row(*["---"] * (1 + len(sides)))]
    lines += [row(name, *(f"{rule.shift(side, side):.2f}" for side in sides)) for name, rule in shifts.items()]
    lines += ["", "## Sources", ""]
    for recipe in recipes.RECIPES:
        lines += [f"### {recipe.title}", "", f"ComfyUI's class: {', '.join(recipe.classes)}."]
        if recipe.file:
            lines[-1] += f" Found by the file's name: `{recipe.file}`."
        lines.append("")
        for name, source in recipe.sources.items():
            if source != recipes.recipe.STEPS:  # which the page says above
                shown = source.replace(recipes.recipe.STEPS, "otherwise as above")
                lines.append(f"* {_WORDS[name]} {value(recipe, name)}: {shown}")
        lines += [f"* {recipe.notes}"] * bool(recipe.notes)
        lines += [f"* Warning: {recipe.warning}."] * bool(recipe.warning)
        lines.append("")
    lines += ["## Bases without a recipe", "", row("classes", "why"), row("---", "---")]
    for why in dict.fromkeys(recipes.LACKING.values()):
        lines.append(row(", ".join(name for name, reason in recipes.LACKING.items() if reason == why), why))
    return "\n".join(lines)


def page(text: str, recipes: Any, shifts: Any) -> str:
    """The page with what is between the two marks made anew."""
    before, _, behind = text.partition(BEGIN)
    _, end, after = behind.partition(END)
    if not end:
        raise ValueError(f"{RECIPES_PAGE.name} has no marks {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{tables(recipes, shifts)}\n\n{END}{after}"


def load() -> tuple[Any, Any]:
    """The recipes and the shifts, from the checkout as a package without its __init__, which wants ComfyUI."""
    name = "deft_pack_of_recipes"
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    settings = f"{name}.trainers.settings"
    return importlib.import_module(f"{settings}.recipes"), importlib.import_module(f"{settings}.formulas").SHIFTS


def files() -> dict[Path, str]:
    """The page by its path."""
    return {RECIPES_PAGE: page(RECIPES_PAGE.read_text(encoding="utf-8"), *load())}
