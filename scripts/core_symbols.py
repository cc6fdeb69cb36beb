"""What the pack takes of ComfyUI, read from the pack's source, and what of it a ComfyUI lacks:

    python3 scripts/core_symbols.py COMFYUI...     the folders of one or more versions

Modules, functions, classes and their attributes by the imports of the pack, and routes of the server by the paths that
the sweeps and the pages ask for. All is read, nothing is imported, so that a ComfyUI needs no packages for it. Exit
status 1 where something is lacking.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rooms import ROOMS

ROOT = Path(__file__).resolve().parent.parent
CORE = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers"}
CORE |= {"execution", "server", "nodes"}  # relative imports of `nodes` are of the pack's own
ROUTE = re.compile(r"""fetchApi\(\s*["'`](/[^"'`?$]*)""")
OWN_ROUTES = "/deft/"
HTTP_METHODS = {"get", "post", "put", "delete", "patch", "head", "static"}
_ASKING = ("client.py", "facts.py", "files.py", "waiting.py", "worker.py")  # of sweeps
PATH = re.compile(r"(?:\{\})?((?:/[a-z_]+)(?:/[a-z_]+|/\{\})*)")  # of a whole address, too


@dataclass(frozen=True, order=True)
class Symbol:
    """A name that the pack takes of ComfyUI: "comfy.utils" and "load_torch_file", and one more for an attribute of it.

    optional: the pack looks whether it is there.
    """

    module: str
    names: tuple[str, ...]
    optional: bool = False

    def __str__(self) -> str:
        return ".".join((self.module, *self.names))


# ------------------------------------------------------------------------------------------------- what the pack takes


def sources() -> list[Path]:
    """The pack's own Python files."""
    return [ROOT / "__init__.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]


def is_core(module: str) -> bool:
    """Whether a module is one of ComfyUI's."""
    return module.partition(".")[0] in CORE


class _Walker(ast.NodeVisitor):
    """Collects the symbols of a file."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, tuple[str, ...]]] = {}  # in the file -> module and name
        self.imported: set[str] = set()  # modules, as `import comfy.utils` has them
        self.symbols: set[Symbol] = set()
        self.trying = 0

    def visit_Try(self, node: ast.Try) -> None:
        """An import that may fail is of something that the pack can do without."""
        catches = any(
            handler.type is None
            or "ImportError" in ast.unparse(handler.type)
            or "Attribute" in ast.unparse(handler.type)
            for handler in node.handlers
        )
        self.trying += catches
        for child in node.body:
            self.visit(child)
        self.trying -= catches
        for other in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(other)

    def visit_If(self, node: ast.If) -> None:
        """The same where the attribute is asked for first, and under TYPE_CHECKING."""
        test = ast.unparse(node.test)
        asks = "hasattr(" in test or "getattr(" in test
        self.visit(node.test)
        self.trying += asks
        for child in node.body:
            self.visit(child)
        self.trying -= asks
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        """`import comfy.utils` and `import comfy.utils as u`."""
        for item in node.names:
            if is_core(item.name):
                self._add(item.name, ())
                if item.asname:
                    self.names[item.asname] = (item.name, ())
                else:
                    self.imported.add(item.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from comfy.utils import load_torch_file`."""
        if not node.level and node.module and is_core(node.module):
            for item in node.names:
                self._add(node.module, (item.name,))
                self.names[item.asname or item.name] = (node.module, (item.name,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """`comfy.utils.load_torch_file`, `io.Schema`, `PromptServer.instance`."""
        chain = [node.attr]
        inner: ast.AST = node.value
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name) or not isinstance(node.ctx, ast.Load):
            self.generic_visit(node)
            return
        if inner.id in self.names:
            module, names = self.names[inner.id]
            self._add(module, (*names, *chain))
        elif inner.id in CORE:
            whole = ".".join((inner.id, *chain))
            module = max((each for each in self.imported if f"{whole}.".startswith(f"{each}.")), key=len, default="")
            if module:
                self._add(module, tuple(whole[len(module) + 1 :].split(".")) if whole != module else ())

    def _add(self, module: str, names: tuple[str, ...]) -> None:
        names = tuple(itertools.takewhile(lambda name: not name.startswith("__"), names))  # what every object has
        self.symbols.add(Symbol(module, names, bool(self.trying)))


def symbols() -> list[Symbol]:
    """All symbols that the pack takes; one that some place needs is not optional."""
    taken: dict[tuple[str, tuple[str, ...]], bool] = {}
    for file in sources():
        walker = _Walker()
        walker.visit(ast.parse(file.read_text(encoding="utf-8")))
        for symbol in walker.symbols:
            place = (symbol.module, symbol.names)
            taken[place] = taken.get(place, True) and symbol.optional
    return sorted(Symbol(module, names, optional) for (module, names), optional in taken.items())


def routes() -> list[str]:
    """The routes of ComfyUI's server that sweeps and pages ask for, {} for what changes in them."""
    asked: set[str] = set()
    for file in _ASKING:
        tree = ast.parse((ROOT / "sweeps" / file).read_text(encoding="utf-8"))
        texts = {_path(node) for node in ast.walk(tree)}
        asked |= {form[1] for text in texts if (form := PATH.fullmatch(text))}
    for page in sorted((ROOT / "web").rglob("*.js")):
        asked |= set(ROUTE.findall(page.read_text(encoding="utf-8")))
    return sorted(path for path in asked if not path.startswith(OWN_ROUTES) and len(path) > 1)


def _path(node: ast.AST) -> str:
    """A text of the source, with {} for its values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_path(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


# ----------------------------------------------------------------------------------------------- what a ComfyUI has


class Core:
    """The source of a ComfyUI."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, symbol: Symbol) -> bool:
        """Whether this ComfyUI has a symbol; yes where it cannot be known: a value, or a class of another package's."""
        place: Place | None = self.module(symbol.module)
        for name in symbol.names:
            if place is None:
                return False
            if place == _UNKNOWN:
                return True
            place = self.inside(place, name)
        return place is not None

    @cache  # noqa: B019
    def module(self, name: str) -> Place | None:
        """A module, by its name."""
        path = self.folder / name.replace(".", "/")
        file = next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)
        if file is not None:
            return Place(name, ast.parse(file.read_text(encoding="utf-8")), file.name == "__init__.py")
        return Place(name, ast.Module([], []), True) if path.is_dir() else None

    def inside(self, place: Place, name: str) -> Place | None:
        """What has that name in a module or a class."""
        if isinstance(place.node, ast.ClassDef):
            return self._of_class(place, place.node, name)
        assert isinstance(place.node, ast.Module)
        stars = []
        for node in _statements(place.node.body):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
                return _UNKNOWN
            if isinstance(node, ast.ClassDef) and node.name == name:
                return Place(place.module, node, place.is_package)
            if isinstance(node, ast.ImportFrom):
                module = _absolute(place, node)
                for item in node.names:
                    if (item.asname or item.name) == name:
                        return self._imported(module, item.name)
                    if item.name == "*":
                        stars.append(module)
            elif isinstance(node, ast.Import):
                for item in node.names:
                    if (item.asname or item.name.partition(".")[0]) == name:
                        return self.module(item.name if item.asname else name) or _UNKNOWN
            elif name in _bound(node):
                value = getattr(node, "value", None)
                if isinstance(value, ast.Name) and value.id != name:  # another name of the same
                    return self.inside(place, value.id) or _UNKNOWN
                return _UNKNOWN
        for module in stars:
            if (there := self._imported(module, name)) is not None:
                return there
        return self.module(f"{place.module}.{name}") if place.is_package else None

    def _imported(self, module: str, name: str) -> Place | None:
        place = self.module(module)
        if place is None:
            return _UNKNOWN  # another package's
        return self.inside(place, name)

    def _of_class(self, place: Place, node: ast.ClassDef, name: str) -> Place | None:
        for inner in _statements(node.body):
            if isinstance(inner, ast.ClassDef) and inner.name == name:
                return Place(place.module, inner, place.is_package)
            if getattr(inner, "name", None) == name or name in _bound(inner):
                return _UNKNOWN
        for each in ast.walk(node):  # self.name = ...
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and each.attr == name:
                return _UNKNOWN
        outer = self.module(place.module)
        for base in node.bases:
            parts = ast.unparse(base).partition("[")[0].split(".")
            if parts[0] in ("Generic", "object", "ABC", "Protocol"):
                continue
            above: Place | None = outer
            for part in parts:
                above = self.inside(above, part) if above is not None and above != _UNKNOWN else above
            if above is None or above == _UNKNOWN or self.inside(above, name) is not None:
                return _UNKNOWN
        return None

    def routes(self) -> list[re.Pattern[str]]:
        """Forms of the routes of its server."""
        forms = []
        for file in (self.folder / "server.py", *sorted((self.folder / "app").rglob("*.py"))):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in HTTP_METHODS
                ):
                    path = next((text for item in node.args if (text := _path(item)).startswith("/")), "")
                    if path:
                        forms.append(re.compile("[^/]+".join(map(re.escape, re.split(r"\{[^/]*\}", path)))))
        return forms

    def lacking(self) -> list[str]:
        """The symbols and routes that it lacks, those that the pack can do without in brackets."""
        symbols_lacking = [symbol for symbol in symbols() if not self.has(symbol)]
        forms = self.routes()
        paths = [f"the route {path}" for path in routes() if not any(form.fullmatch(path) for form in forms)]
        return [*(f"({symbol})" if symbol.optional else str(symbol) for symbol in symbols_lacking), *paths]


@dataclass(frozen=True)
class Place:
    """A module or a class in a ComfyUI's source."""

    module: str
    node: ast.AST
    is_package: bool = False


_UNKNOWN = Place("", ast.Module([], []))  # there, but what it has cannot be read


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, with those inside of if, try and with."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With, ast.For)):
                yield from _statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from _statements(handler.body)


def _bound(node: ast.stmt) -> set[str]:
    """The names that an assignment gives values to."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.For)):
        targets = [node.target]
    return {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}


def _absolute(place: Place, node: ast.ImportFrom) -> str:
    """The module that a `from` names."""
    if not node.level:
        return node.module or ""
    parts = place.module.split(".")
    parts = parts[: len(parts) - node.level + place.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def report(folders: Mapping[str, Path]) -> tuple[list[str], bool]:
    """A line for each version and for what it lacks, and whether it lacks what is needed."""
    count, lines, fails = len(symbols()), [], False
    for name, folder in folders.items():
        lacking = Core(folder).lacking()
        needed = [each for each in lacking if not each.startswith("(")]
        fails = fails or bool(needed)
        lines.append(f"[core] {name}: {count} symbols and {len(routes())} routes, {len(needed)} of them lacking")
        lines += [f"    {each}" for each in lacking]
    return lines, fails


def main() -> None:
    """Command line."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    lines, fails = report({folder: Path(folder) for folder in sys.argv[1:]})
    print("\n".join(lines))
    sys.exit(int(fails))


if __name__ == "__main__":
    main()
