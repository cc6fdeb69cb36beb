"""One name stands for one thing, and a docstring says what a thing is or does; read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from ..scripts import load_script

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = (*load_script("rooms").ROOMS, "demo", "benchmarks", "scripts", "workflow_sources", "tests")

# What every file of some folders has by the same name. Settings are a whole training's, too.
CONVENTIONS = {
    "Factors": {"deft_ops/methods"},
    "Settings": {"deft_ops/methods", "trainers/settings"},
    "METHOD": {"deft_ops/methods"},
    "NAME": {"deft_ops/methods", "deft_ops/files"},
    "SUFFIXES": {"deft_ops/methods"},
    "METRIC": {"scoring/metrics"},
    "MODELS": {"models/names/architectures"},
    "RECIPE": {"trainers/settings/recipes"},
    "NODES": {"nodes"},
    "CATEGORY": {"nodes"},
    "workflow_files": {"scripts"},
    "ROOT": {"benchmarks", "scripts", "demo", "demo/recipe", "workflow_sources"},
}


def sources() -> list[Path]:
    """All Python files of the repository."""
    paths = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    return sorted(path for path in paths if path.relative_to(ROOT).parts[:2] != ("demo", "work"))


def public_names(path: Path) -> set[str]:
    """The classes, constants and type aliases of a file that others may import."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        names |= {node.name} if isinstance(node, ast.ClassDef) else set()
    return {name for name in names if not name.startswith("_")}


def repeated(paths: Iterable[Path], root: Path = ROOT) -> dict[str, list[str]]:
    """The names that several files give to something, with those files, but for those of CONVENTIONS."""
    places: dict[str, list[str]] = {}
    for path in paths:
        where = path.relative_to(root)
        for name in public_names(path):
            if where.parent.as_posix() not in CONVENTIONS.get(name, ()):
                places.setdefault(name, []).append(where.as_posix())
    assert places
    return {name: files for name, files in places.items() if len(files) > 1 or name in CONVENTIONS}


def test_a_name_stands_for_one_thing() -> None:
    """Somebody who reads Row, Report or METHODS need not ask which; what only its own file uses begins with _."""
    paths = [path for path in sources() if path.relative_to(ROOT).parts[0] != "tests"]
    assert len({name for path in paths for name in public_names(path)}) > 600
    assert repeated(paths) == {}


# A docstring that begins with one of these says how or where, before it has said what.
MID_AIR = frozenset(
    (
        *("After", "Against", "Among", "And", "As", "At", "Because", "Before", "Behind", "Below", "Beside", "Between"),
        *("But", "By", "Even", "For", "From", "In", "Into", "Like", "Not", "Of", "On", "Once", "Or", "Since", "So"),
        *("Than", "That", "Through", "To", "Whose", "With", "Within", "Without", "Also"),
        *("It", "Its", "They", "Their", "Those"),
    )
)


def in_mid_air(text: str) -> list[str]:
    """The docstrings of a file that begin with a preposition, a conjunction or a pronoun, as in "Of all values."."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return [each.partition("\n")[0] for each in docstrings if re.split(r"\W", each, maxsplit=1)[0] in MID_AIR]


def test_docstrings_say_what_a_thing_is_or_does() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sources()}
    assert len(texts) > 500
    assert {name: wrong for name, text in texts.items() if (wrong := in_mid_air(text))} == {}


def test_docstrings_in_mid_air_are_seen() -> None:
    text = (
        '"""With a module."""\nclass A:\n    """So, of a class.\n\n    More."""\n'
        '    async def b(self):\n        """As C."""'
    )
    assert in_mid_air(text) == ["With a module.", "So, of a class.", "As C."]
    assert in_mid_air('"""Often of all."""\ndef a():\n    """The of."""\ndef b(): ...') == []


def test_repeated_names_are_seen(tmp_path: Path) -> None:
    """Names of constants, types and classes; not private ones, nor what a convention allows in that folder."""
    texts = {
        "nodes/a.py": "NODES = [1]\nMETHODS: dict = {}\n_FEW = 1\nRow = tuple[int, str]\n",
        "nodes/b.py": "NODES = [2]\nclass Row: ...\n_FEW = 2\nMETHODS = ONE = 2\n",
        "scoring/c.py": "NODES = [3]\ndef ONE(): ...\n",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert repeated(sorted(tmp_path.rglob("*.py")), tmp_path) == {
        "METHODS": ["nodes/a.py", "nodes/b.py"],
        "Row": ["nodes/a.py", "nodes/b.py"],
        "NODES": ["scoring/c.py"],
    }
