"""The arrows between the folders, and what may not stand in files that users get; read from the source."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from deft_pack.deft_ops import methods

from ..scripts import load_script

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = (*load_script("rooms").ROOMS, "demo")
NOT_SHIPPED = ("demo/run.py", "demo/recipe")  # left out by .comfyignore
# Who may import whom (besides itself). The root imports nodes only.
ARROWS = {
    "": {"nodes"},
    "nodes": {
        "trainers",
        "scoring",
        "reports",
        "convert",
        "patches",
        "matching",
        "models",
        "deft_ops",
        "demo",
        "sweeps",
        "disk",
    },
    "trainers": {"models", "deft_ops", "disk"},
    "convert": {"matching", "models", "deft_ops"},
    "patches": {"matching", "models", "deft_ops"},
    "matching": {"models", "deft_ops"},
    "models": {"deft_ops"},
    "deft_ops": {"disk"},
    "scoring": set(),
    "reports": {"scoring"},
    "sweeps": {"reports", "scoring", "disk"},  # the report, and what is written here; all else is HTTP
    "demo": set(),
    "disk": set(),
}
# The same among the rooms of trainers.
TRAINERS_ARROWS = {
    "trainers/run": {"trainers/data", "trainers/step", "trainers/settings"},
    "trainers/data": {"trainers/step", "trainers/settings"},
    "trainers/step": {"trainers/settings"},
    "trainers/settings": set(),
}
COMFY = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "comfy_config",
    "folder_paths",
    "nodes",
    "server",
    "execution",
    "latent_preview",
    "node_helpers",
    "app",
    "utils",
}
MAY_IMPORT_COMFY = {"nodes", "trainers", "convert", "patches", "matching", "models", "demo"}
UNSAFE_MODULES = {
    "subprocess",
    "pickle",
    "cPickle",
    "dill",
    "socket",
    "requests",
    "urllib",
    "http",
    "httpx",
    "ctypes",
    "marshal",
    "shelve",
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
# Where words that are also the names of methods may stand as texts: settings as data, other programs' words for what is
# in their files, ComfyUI's names of its own classes, and words to search nodes by.
METHOD_WORDS = {
    "trainers/settings/presets.py": {"deft", "para", "lora", "svdiff", "dreambooth"},
    "deft_ops/files/native.py": {"lora"},
    "deft_ops/files/peft.py": {"para"},
    "deft_ops/files/peft_records.py": {"para"},
    "deft_ops/files/peft_tensors.py": {"lora"},
    "deft_ops/files/svdiff.py": {"svdiff"},
    "deft_ops/modelspec.py": {"lora"},
    "matching/peft_tuners.py": {"lora"},
    "matching/match.py": {"lokr"},
    "convert/inspect.py": {"lora"},
    "patches/activations.py": {"deft"},  # the pack's own keys at a model patcher
    "patches/weight_adapter.py": {"deft"},
    "nodes/adapters.py": {"deft", "para", "svdiff", "lora", "dora"},
    "nodes/hooks.py": {"deft", "para"},
    "nodes/saving.py": {"lora"},
    "nodes/training.py": {"svdiff", "dreambooth", "lora"},
}
# Who takes a method's own module: its file format, and the reader of what PEFT computes.
METHOD_IMPORTS = {
    "deft_ops/files/svdiff.py": {"svdiff"},
    "matching/peft_tuners.py": {"peft_tuner"},
}
LINES = 421  # of a file, at most: a longer one has parts that stand alone
NOT_IN_REQUIREMENTS = {
    "torch",
    "torchvision",
    "torchaudio",
    "torchsde",
    "numpy",
    "transformers",
    "safetensors",
    "kornia",
    "comfyui",
    "xformers",
    "triton",
}


def by_path(path: Path) -> str:
    """The path from the root, with slashes."""
    return path.relative_to(ROOT).as_posix()


@cache
def shipped_files() -> list[Path]:
    """The Python files that a user's ComfyUI loads."""
    paths = [ROOT / "__init__.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
    return [path for path in paths if not by_path(path).startswith(NOT_SHIPPED)]


def folder_of(path: Path) -> str:
    """The pack's folder that a file is in; "" for the root."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


READ = (
    ast.Import | ast.ImportFrom | ast.Call | ast.Constant | ast.Attribute
)  # all kinds of nodes that the checks below look at


@dataclass(frozen=True)
class Source:
    """What the checks look at in a file: these nodes, and its relative imports that run."""

    nodes: tuple[READ, ...]
    imports: tuple[ast.ImportFrom, ...]


@cache
def source_of_text(text: str) -> Source:
    """Read once: some ten checks go over each file."""
    tree = ast.parse(text)
    nodes = tuple(node for node in ast.walk(tree) if isinstance(node, READ))
    return Source(nodes, tuple(import_nodes(tree)))


def source_of(path: Path) -> Source:
    """What the checks look at in the file as it is now: a test writes the same one twice."""
    return source_of_text(path.read_text(encoding="utf-8"))


def nodes_of(path: Path) -> tuple[READ, ...]:
    """The nodes of a file that the checks look at."""
    return source_of(path).nodes


@cache
def module_graph_of_the_pack() -> dict[str, set[str]]:
    """The module graph of the shipped files."""
    return module_graph(shipped_files())


@pytest.fixture(autouse=True, scope="module")
def sources_are_let_go() -> Iterator[None]:
    """Let the sources go with the last test here; the other files of a run do not need them."""
    yield
    source_of_text.cache_clear()


def offences(paths: Iterable[Path], wrong: Callable[[Path], list[str]]) -> dict[str, list[str]]:
    """What is wrong in these files, by path. One test over all of them: there are hundreds."""
    paths = list(paths)
    assert paths
    return {by_path(path): lines for path in paths if (lines := wrong(path))}


def own_imports(path: Path, root: Path = ROOT) -> Iterator[tuple[str, int]]:
    """The pack's folders that a file imports by relative imports, with the line."""
    package = path.relative_to(root).parent.parts
    for node in nodes_of(path):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        above = len(package) - (node.level - 1)
        assert above >= 0, f"{path}:{node.lineno}: leads out of the pack"
        target = package[:above] + tuple((node.module or "").split(".") if node.module else ())
        for name in [target[0]] if target else [alias.name for alias in node.names]:
            yield name, node.lineno


def last_name(function: ast.expr) -> str:
    """What stands before the brackets of a call, after the last dot."""
    return str(getattr(function, "attr", "") or getattr(function, "id", ""))


def absolute_imports(path: Path) -> Iterator[tuple[str, int]]:
    """The top-level names of absolute imports, with the line; importlib.import_module("name") counts."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0], node.lineno
        elif isinstance(node, ast.Call) and last_name(node.func).endswith("import_module"):
            for value in node.args:
                if isinstance(value, ast.Constant):
                    yield str(value.value).split(".")[0], node.lineno


def module_of(path: Path, root: Path) -> tuple[str, ...]:
    """A file's module as the names of its path; a folder's __init__.py is the folder."""
    parts = path.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def import_nodes(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """Relative imports, those within functions among them, but not those for type checkers, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):  # there are no statements in one
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from import_nodes(other)
        else:
            yield from import_nodes(node)


def module_graph(paths: list[Path], root: Path = ROOT) -> dict[str, set[str]]:
    """The modules that each module imports, by path with slashes. `from . import x` leads to x if that is a module."""
    modules = {module_of(path, root): path for path in paths}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        package = path.relative_to(root).parent.parts
        targets = set()
        for node in source_of(path).imports:
            start = package[: len(package) - (node.level - 1)] + tuple(node.module.split(".") if node.module else ())
            targets |= {(*start, alias.name) if (*start, alias.name) in modules else start for alias in node.names}
        graph["/".join(module)] = {"/".join(target) for target in targets if target in modules and target != module}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, the first again at the end; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def wrong_arrows(graph: dict[str, set[str]], arrows: dict[str, set[str]]) -> list[str]:
    """The imports of a graph of modules that lead from one room of a table to another against its arrows."""
    rooms = {module: "/".join(module.split("/")[:2]) for module in graph}
    return sorted(
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in targets
        if rooms[module] in arrows and rooms[target] in arrows.keys() - {rooms[module]} - arrows[rooms[module]]
    )


def reachable(graph: dict[str, set[str]], module: str) -> set[str]:
    """The module and all that it imports, itself or through others."""
    reached, ahead = set(), {module}
    while ahead:
        reached |= ahead
        ahead = {target for each in ahead for target in graph[each]} - reached
    return reached


def files_of(*folders: str) -> list[Path]:
    """Shipped files in the named folders."""
    return [path for path in shipped_files() if folder_of(path) in folders]


def test_the_folders_are_there() -> None:
    assert {folder_of(path) for path in shipped_files()} >= {"", "deft_ops", "patches", "trainers", "nodes", "scoring"}


def test_arrows() -> None:
    def wrong(path: Path) -> list[str]:
        here = folder_of(path)
        return [
            f"line {line}: {name}; {here or 'the root'} may import {sorted(ARROWS[here])} only"
            for name, line in own_imports(path)
            if name in FOLDERS and name != here and name not in ARROWS[here]
        ]

    assert offences(shipped_files(), wrong) == {}


def test_arrows_within_trainers() -> None:
    """Imports within functions counted; those for type checkers (of `step.checking`, the Trainer) never run."""
    folders = {path.relative_to(ROOT).parent.as_posix() for path in files_of("trainers")}
    assert {"/".join(folder.split("/")[:2]) for folder in folders} == {"trainers", *TRAINERS_ARROWS}
    assert wrong_arrows(module_graph_of_the_pack(), TRAINERS_ARROWS) == []


def test_a_ray_worker_needs_no_other_folder() -> None:
    """Ray sends its actor by value, with what it uses of this folder alone; `test_sweep_remote` lets one work."""
    sent = reachable(module_graph_of_the_pack(), "sweeps/remote")
    assert sent >= {"sweeps/remote", "sweeps/server", "sweeps/facts"}
    assert [module for module in sent if not module.startswith("sweeps/")] == []
    assert reachable(module_graph_of_the_pack(), "sweeps/worker") >= {"disk/errors"}


def imported(path: Path, names: set[str]) -> list[str]:
    """Lines of a file that import something of these names, absolutely."""
    return [f"line {line}: {name}" for name, line in absolute_imports(path) if name in names]


def test_own_modules_are_imported_relatively() -> None:
    own = (set(FOLDERS) | {"deft_pack", "benchmarks", "tests"}) - {"nodes"}  # `nodes` is ComfyUI's there
    assert offences(shipped_files(), lambda path: imported(path, own)) == {}


def test_comfy_stays_out() -> None:
    folders = {"", "deft_ops", "scoring", "reports", "sweeps", "disk"}
    assert folders & MAY_IMPORT_COMFY == set()
    assert offences(files_of(*folders), lambda path: imported(path, COMFY)) == {}


def flagged(path: Path) -> list[str]:
    """What registry scanners flag in a file, and seeds of everybody."""
    lines = [f"line {line}: {name}" for name, line in absolute_imports(path) if name in UNSAFE_MODULES]
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in UNSAFE_CALLS or name in {"os.system", "os.popen"}:
                lines.append(f"line {node.lineno}: {name}()")
            weights_only = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
            if name == "torch.load" and not weights_only:
                lines.append(f"line {node.lineno}: torch.load without weights_only=True")
            if name in {"torch.manual_seed", "random.seed", "np.random.seed", "torch.cuda.manual_seed_all"}:
                lines.append(f"line {node.lineno}: {name}() changes the seed of everybody")
    return lines


def test_nothing_that_scanners_flag() -> None:
    """A version that registry scanners flag is withheld from users. Sweeps talk HTTP, and are apart."""
    assert offences(files_of("", *(name for name in FOLDERS if name != "sweeps")), flagged) == {}


def test_html_stands_in_templates() -> None:
    """Where jinja2 escapes every value: a string of HTML in Python would have to be escaped by hand."""

    def wrong(path: Path) -> list[str]:
        strings = [node for node in nodes_of(path) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        of_html = [f"line {node.lineno}: {node.value}" for node in strings if "</" in str(node.value)]
        return imported(path, {"html", "markupsafe"}) + of_html

    assert offences(shipped_files(), wrong) == {}


def method_modules() -> set[str]:
    """The modules of deft_ops/methods that have a record."""
    folder = ROOT / "deft_ops" / "methods"
    return {path.stem for path in folder.glob("*.py") if re.search(r"^METHOD\b.* = ", path.read_text(), re.M)}


def texts(path: Path) -> Iterator[str]:
    """All texts in a file, whole; docstrings are whole texts, too."""
    for node in nodes_of(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named(path: Path, names: set[str]) -> set[str]:
    """Which of these names are texts in a file, parts of f-strings and keys among them; or all that a text lists."""
    lists = (set(re.split(r"[\s,/|;]+", text)) - {""} for text in texts(path))
    return {name for listed in lists if listed <= names for name in listed}


def imported_methods(path: Path, modules: set[str]) -> set[str]:
    """The methods' own modules that a file imports, itself or something of them, or takes from their package."""
    method_names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Attribute) and last_name(node.value) == "methods":
            method_names |= {node.attr} & modules
        if isinstance(node, ast.ImportFrom) and (parts := (node.module or "").split(".")):
            names = {alias.name for alias in node.names} if parts[-1] == "methods" else set()
            method_names |= (names | {parts[-1]} if parts[-1] in modules and "methods" in parts else names) & modules
    return method_names


def asked_by_attribute(text: str) -> list[str]:
    """Where a file asks whether a method's record has an attribute: its fields are those of its type."""
    return re.findall(r"(?:has|get)attr\((?:\w+\.)*(?:method|record|training)\b", text)


def test_methods_are_records() -> None:
    """The records are of one type, which mypy checks; each in a module of its own, and all of these in the list."""
    assert not any("ModuleType" in path.read_text() for path in (ROOT / "deft_ops" / "methods").glob("*.py"))
    assert all(type(record) is methods.Method for record in methods.METHODS.values())
    assert all(name == record.name for name, record in methods.METHODS.items())
    modules = {record.delta.__module__.rpartition(".")[2] for record in methods.METHODS.values()}
    assert modules <= method_modules()
    assert len(method_modules()) == len(methods.METHODS)


def test_no_code_names_a_method() -> None:
    """Outside of the methods' own files: what others have to know of one is in its record."""
    names = set(methods.METHODS) - {"peft"}  # a package, and a file format
    modules = method_modules()

    def wrong(path: Path) -> list[str]:
        where = by_path(path)
        if where.startswith("deft_ops/methods/"):
            return []
        words, allowed = named(path, names), METHOD_WORDS.get(where, set())
        taken, expected = imported_methods(path, modules), METHOD_IMPORTS.get(where, set())
        lines = [f"names {word}" for word in sorted(words - allowed)]
        lines += [f"METHOD_WORDS has {word}, which is not there" for word in sorted(allowed - words)]
        lines += [f"imports {name}" for name in sorted(taken - expected)]
        lines += [f"METHOD_IMPORTS has {name}, which is not there" for name in sorted(expected - taken)]
        return lines + asked_by_attribute(path.read_text(encoding="utf-8"))

    assert offences(files_of(*sorted({*FOLDERS} - {"scoring", "sweeps"})), wrong) == {}


# Names in ComfyUI's and GGUF loaders' code by which a weight's storage is known.
STORAGE_NAMES = re.compile(
    r"\b(QuantizedTensor|_layout_cls|tensor_type|get_weight|convert_weight|dequantize|pre_quant_scale|_v|"
    r"comfy_quant|scale_weight|scale_input|weight_scale(?:_2)?|input_scale)\b"
)


def storage_names(text: str) -> set[str]:
    """The names in a file by which a weight's storage is known."""
    return set(STORAGE_NAMES.findall(text))


def test_one_file_knows_how_weights_are_stored() -> None:
    """models/stored.py: a new storage, such as another quantisation, is added there alone."""

    def names(path: Path) -> list[str]:
        return sorted(storage_names(path.read_text(encoding="utf-8")))

    assert set(offences(files_of(*FOLDERS), names)) == {"models/stored.py"}


def test_what_workflows_are_made_from_stands_alone() -> None:
    """The sources are data and text: no folder of the pack, no ComfyUI, no server."""
    own = set(FOLDERS) | {"deft_pack", "benchmarks", "tests", "scripts", "workflow_sources"}

    def wrong(path: Path) -> list[str]:
        others = [f"line {line}: {name}" for name, line in own_imports(path) if name != "workflow_sources"]
        return others + imported(path, own | COMFY)

    assert offences(sorted((ROOT / "workflow_sources").rglob("*.py")), wrong) == {}


def test_users_need_no_source_of_a_workflow() -> None:
    def wrong(path: Path) -> list[str]:
        names = [*own_imports(path), *absolute_imports(path)]
        return [f"line {line}: {name}" for name, line in names if name == "workflow_sources"]

    assert offences(shipped_files(), wrong) == {}


def too_long(path: Path) -> list[str]:
    """How many lines a file has, if they are more than a reader takes in at once."""
    lines = path.read_text(encoding="utf-8").count("\n")
    return [f"{lines} lines"] if lines > LINES else []


def test_no_file_is_long() -> None:
    """Exceptions: none."""
    assert offences(shipped_files(), too_long) == {}


def test_no_imports_in_a_circle() -> None:
    """Imports within functions counted: one that only breaks a circle hides it. Exceptions: none."""
    graph = module_graph_of_the_pack()
    assert graph["patches/apply"] >= {"matching/match", "patches/weight_adapter"}
    assert circle(graph) == []


def test_the_page_shows_the_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/maintainers/architecture.md: picture and list are what the script makes of the table; each room says why."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_architecture

    tables = ARROWS, TRAINERS_ARROWS
    assert [make_architecture.arrows(name) for name in make_architecture.ARROW_TABLES] == [*tables]
    text = make_architecture.ARCHITECTURE_PAGE.read_text(encoding="utf-8")
    assert make_architecture.page(text, *tables) == text, "run scripts/make_architecture.py"
    pictures = [part.partition("```")[0] for part in text.split("```mermaid")[1:]]
    for picture, table in zip(pictures, tables, strict=True):
        assert set(re.findall(r"(\w+) --> (\w+)", picture)) == {
            (room.rpartition("/")[2] or "start", other.rpartition("/")[2])
            for room, others in table.items()
            for other in others
        }


def test_requirements_are_loose_extras() -> None:
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(>=[0-9.]+)?", line)
        assert match, f"{line}: only a name and a lower bound"
        assert match.group(1).lower() not in NOT_IN_REQUIREMENTS, f"{line}: comes with ComfyUI"


def test_what_is_not_checked_is_not_shipped() -> None:
    ignored = (ROOT / ".comfyignore").read_text().splitlines()
    assert {line.rstrip("/") for line in ignored} >= {
        *NOT_SHIPPED,
        "tests",
        "benchmarks",
        "scripts",
        "workflow_sources",
    }


def test_project_file_names_the_same_requirements() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    matched = re.search(r"^dependencies = \[(.*?)\]", text, re.M | re.S)
    assert matched
    assert re.findall(r'"([^"]+)"', matched.group(1)) == (ROOT / "requirements.txt").read_text().split()


def test_the_checks_see_what_they_look_for(tmp_path: Path) -> None:
    """The readers above on a file that breaks the rules, so that they cannot pass by seeing nothing."""
    folder = tmp_path / "deft_ops" / "files"
    folder.mkdir(parents=True)
    path = folder / "bad.py"
    path.write_text(
        "from ...scoring import x\nfrom ... import nodes\nfrom ..layers import y\n"
        "import comfy.utils, pickle, importlib\nimportlib.import_module('subprocess')\n"
    )
    assert [name for name, _ in own_imports(path, tmp_path)] == ["scoring", "nodes", "deft_ops"]
    assert {name for name, _ in absolute_imports(path)} >= {"comfy", "pickle", "subprocess"}
    path.write_text(
        "from ..methods import lora, move\nfrom ..methods.deft import init\nfrom .svdiff import write\n"
        "choice = {'lora': 1, 'a lora': 2} if method == 'deft' else 3\n"
    )
    assert set(texts(path)) == {"lora", "a lora", "deft"}
    assert imported_methods(path, method_modules()) == {"lora", "deft"}
    path.write_text(
        "from .. import methods\nx = methods.oft.init\ny = f'{x}svdiff'\nz = 'deft, para'.split(', ')\n"
        "w = getattr(layer.method, 'rate', 1) or hasattr(record, 'z') or 'a dora'\n"
    )
    assert imported_methods(path, method_modules()) == {"oft"}
    assert named(path, set(methods.METHODS)) == {"svdiff", "deft", "para"}
    assert len(asked_by_attribute(path.read_text())) == 2
    assert method_modules() >= {"lora", "deft", "peft_tuner"}
    assert "common" not in method_modules()
    assert storage_names("own.get('_v'); key.endswith('.weight_scale'); a_v") == {"_v", "weight_scale"}
    path.write_text("x = 1\n" * LINES)
    assert too_long(path) == []
    path.write_text("x = 1\n" * (LINES + 1))
    assert too_long(path) == [f"{LINES + 1} lines"]


def test_circles_are_seen(tmp_path: Path) -> None:
    """Imports through a package's __init__.py and within a function are seen, not those for type checkers."""
    room = tmp_path / "room"
    room.mkdir()
    texts = {
        "__init__": "",
        "a": "from .b import x\n",
        "b": "def f():\n    from . import c\n",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import y\n",
    }
    for name, text in texts.items():
        (room / f"{name}.py").write_text(text)
    paths = sorted(room.glob("*.py"))
    assert circle(module_graph(paths, tmp_path)) == []
    (room / "c.py").write_text("def f():\n    from ..room.a import y\n")
    assert set(circle(module_graph(paths, tmp_path))) == {"room/a", "room/b", "room/c"}


def test_arrows_within_a_room_are_seen(tmp_path: Path) -> None:
    """Imports within a function and of a folder below are seen; the right way round there is none."""
    arrows: dict[str, set[str]] = {"room/late": {"room/early"}, "room/early": set()}
    texts = {
        "early/a": "",
        "early/kinds/b": "from .. import a\n",
        "late/c": "from ..early.kinds.b import x\nfrom . import d\n",
        "late/d": "from ...other import y\n",
    }
    for name, text in texts.items():
        path = tmp_path / "room" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths = sorted((tmp_path / "room").rglob("*.py"))
    assert wrong_arrows(module_graph(paths, tmp_path), arrows) == []
    (tmp_path / "room" / "early" / "a.py").write_text("from ..late.c import x\n")
    (tmp_path / "room" / "early" / "kinds" / "b.py").write_text("def f():\n    from ...late import d\n")
    assert wrong_arrows(module_graph(paths, tmp_path), arrows) == [
        "room/early/a imports room/late/c",
        "room/early/kinds/b imports room/late/d",
    ]
