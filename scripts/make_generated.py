"""Make what is generated out of the nodes, the sources of the workflows and the demo: all of it, or the named parts.

    make generated
    make generated PARTS="interface locales help"

Texts take seconds. Pictures need a browser or a run: each has a mark of what it was made from (picture_marks.py), and
is made again where that is something else now, or where it is missing: remove one to have it made anew.
tests/comfy/test_generated.py names what is stale.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_demo_pictures
import make_example_pictures
import make_help
import make_interface
import make_locale
import make_method_pictures
import make_node_pictures
import make_recipes
import make_training_picture
import make_workflows
import picture_marks
from comfy_server import ROOT
from generated import Pack, ask, changed, write
from rooms import load_room

workflow_files = load_room("workflow_sources", "files")

# Files by part, in the order in which they are made. Those of the nodes come from a server, which is asked once.
OF_SOURCES: dict[str, Callable[[], Mapping[Path, str]]] = {
    "workflows": lambda: workflow_files.api_files() | workflow_files.graph_files(),
    "plans": lambda: workflow_files.plan_files(),
    "blueprints": lambda: workflow_files.blueprint_files(),
    "recipes": make_recipes.files,
}
OF_NODES: dict[str, Callable[[Pack], Mapping[Path, str]]] = {
    "interface": make_interface.files,
    "locales": make_locale.files,
    "help": make_help.files,
}


@dataclass(frozen=True)
class GeneratedPictures:
    """A part of pictures: the mark of each by its file, and how those of given files are made."""

    marks: Callable[[Pack], Mapping[Path, str]]
    make: Callable[[Collection[Path]], Any]


def stems(paths: Collection[Path]) -> list[str]:
    """The names of files without their endings."""
    return [path.stem for path in paths]


def run_script(name: str, *arguments: str) -> None:
    """Run a script in a process of its own."""
    subprocess.run([sys.executable, f"scripts/{name}.py", *arguments], cwd=ROOT, check=True)


OF_PICTURES: dict[str, GeneratedPictures] = {
    "thumbnails": GeneratedPictures(
        lambda pack: make_workflows.thumbnail_marks(), lambda paths: make_workflows.make_thumbnails(stems(paths))
    ),
    "node_pictures": GeneratedPictures(
        lambda pack: make_node_pictures.marks(pack.nodes),
        lambda paths: run_script("make_node_pictures", *(path.parent.name for path in paths)),
    ),
    "example_pictures": GeneratedPictures(
        lambda pack: make_example_pictures.marks(), lambda paths: make_example_pictures.make(stems(paths))
    ),
    # One training is for all of them.
    "method_pictures": GeneratedPictures(
        lambda pack: make_method_pictures.marks(), lambda paths: run_script("make_method_pictures")
    ),
    "training_picture": GeneratedPictures(
        lambda pack: make_training_picture.marks(), lambda paths: make_training_picture.make()
    ),
    "demo_pictures": GeneratedPictures(
        lambda pack: make_demo_pictures.marks(), lambda paths: make_demo_pictures.make(stems(paths))
    ),
}
# Folders in which all files of these names are generated.
GENERATED = (
    "example_workflows/**/*.*",
    "subgraphs/*.json",
    "web/docs/*/*",
    "docs/examples/*",
    "docs/methods_*.png",
    "docs/demo_*",
)


def stale(pack: Pack) -> list[str]:
    """The generated files that would be different if they were made now, a line each with the command that makes it."""
    lines = []
    texts = {part: make() for part, make in OF_SOURCES.items()}
    texts |= {part: make(pack) for part, make in OF_NODES.items()}
    for part, files in texts.items():
        lines += [_line(path, part) for path in changed(files)]
    outdated = [name for name in workflow_files.names() if workflow_files.outdated(name)]
    lines += [_line(workflow_files.TEMPLATES / f"{name}.json", "workflows") for name in outdated]
    lines += [
        _line(blueprint.path, "blueprints")
        for blueprint in workflow_files.blueprints.blueprints()
        if workflow_files.outdated_blueprint(blueprint)
    ]
    if make_locale.all_lacking(pack):
        lines.append(
            "locales: translate what is named here, then make generated PARTS=translated\n"
            + "\n".join(make_locale.all_lacking(pack))
        )
    return [*lines, *stale_pictures(pack), *left_over(pack)]


def stale_pictures(pack: Pack) -> list[str]:
    """The pictures that were made from something else than what is there now."""
    return [
        _line(path, part)
        for part, pictures in OF_PICTURES.items()
        for path in picture_marks.outdated(pictures.marks(pack))
    ]


def left_over(pack: Pack) -> list[str]:
    """The files that were generated from something that is gone."""
    made = {workflow_files.TEMPLATES / f"{name}.json" for name in workflow_files.names()}
    made |= {blueprint.path for blueprint in workflow_files.blueprints.blueprints()}
    made = made.union(
        workflow_files.api_files(), make_help.files(pack), *(one.marks(pack) for one in OF_PICTURES.values())
    )
    there = {path for pattern in GENERATED for path in ROOT.glob(pattern)}
    return [f"{path.relative_to(ROOT)} has no source any more: remove it" for path in sorted(there - made)]


def _line(path: Path, part: str) -> str:
    return f"{path.relative_to(ROOT)} is stale: make generated PARTS={part}"


# translated is run by hand, after the translations were brought up to date.
_PARTS = (*OF_SOURCES, *OF_NODES, "translated", *OF_PICTURES)


def main() -> None:
    """Make the named parts; all but `translated` without a name."""
    parts = sys.argv[1:] or [part for part in _PARTS if part != "translated"]
    if unknown := set(parts) - set(_PARTS):
        sys.exit(f"unknown part {', '.join(sorted(unknown))}; there are: {' '.join(_PARTS)}")
    # Before the workflows: which sockets their nodes have is read from interface.json.
    pack = Pack({}, {}, {})
    if {*OF_NODES, "translated", "node_pictures"} & set(parts):
        pack = ask()
        for part, make in OF_NODES.items():
            if part in parts:
                try:
                    write(make(pack))
                except ValueError as error:
                    sys.exit(f"[generated] {error}")
        # Before the marks are written, which say that the translations are up to date.
        for line in make_locale.all_lacking(pack):
            print(f"[generated] {line}")
        if "translated" in parts:
            write(make_locale.translated_files(pack))
    if "workflows" in parts:
        make_workflows.make()
    if "blueprints" in parts:
        make_workflows.make_blueprints(None)
    for part in {"plans", "recipes"} & set(parts):
        write(OF_SOURCES[part]())
    for part, pictures in OF_PICTURES.items():
        if part in parts and (paths := picture_marks.outdated(pictures.marks(pack))):
            print(f"[generated] {part}: {len(paths)}", flush=True)
            pictures.make(paths)


if __name__ == "__main__":
    main()
