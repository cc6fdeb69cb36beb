"""Make what is generated out of the nodes, the sources of the workflows and the demo: all of it, or the named parts.

    make generated
    make generated PARTS="interface locales help"

Texts take seconds, and tests/comfy/test_generated.py says which of them is stale. Pictures need a browser or a run,
and no test says that one is stale, but for a node whose name, inputs or outputs have changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import make_help
import make_interface
import make_locale
import make_node_pictures
import make_recipes
from comfy_server import ROOT, find_comfyui
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
    return [*lines, *stale_pictures(pack)]


def stale_pictures(pack: Pack) -> list[str]:
    """The pictures of nodes that look different by now, as far as a picture's own text says."""
    return [
        _line(path, "node_pictures")
        for name, node in pack.nodes.items()
        if make_node_pictures.text_of(path := make_node_pictures.DOCS / name / "node.png")
        != make_node_pictures.shown(node)
    ]


def _line(path: Path, part: str) -> str:
    return f"{path.relative_to(ROOT)} is stale: make generated PARTS={part}"


def make_workflows() -> None:
    """The workflows, by the front end where their nodes, links or values have changed."""
    import make_workflows

    make_workflows.make()


def make_blueprints() -> None:
    """The blueprints, by the front end where their nodes, links or values have changed."""
    import make_workflows

    make_workflows.make_blueprints(None)


def run_script(*arguments: str, **variables: str) -> None:
    """A script with a server of its own."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=os.environ | variables, check=True)


def make_thumbnails() -> None:
    """Run the examples and make the pictures of the template browser."""
    import make_workflows

    make_workflows.make(thumbnails=True)


def check_fonts() -> None:
    """Ends the script where the browser would draw boxes: no font has the Chinese characters of the examples' notes.

    Other systems than Linux come with one.
    """
    if not sys.platform.startswith("linux"):
        return
    if shutil.which("fc-list") is None:
        print("[generated] fc-list (of fontconfig) is missing: nobody knows whether a font has Chinese characters")
    elif not subprocess.run(["fc-list", ":lang=zh-cn"], stdout=subprocess.PIPE, check=True).stdout.strip():
        sys.exit(
            "[generated] example_pictures: no font here has the Chinese characters of the notes, which would "
            "be drawn as boxes: install one, such as the package fonts-noto-cjk."
        )


def make_example_pictures() -> None:
    """The examples in the browser, for docs/examples: by the test that opens them."""
    check_fonts()
    run_script(
        "-m",
        "pytest",
        "-q",
        "tests/server/test_front_end.py",
        "-k",
        "test_opens and canvas",
        DEFT_TEST_PICTURES=str(ROOT / "docs" / "examples"),
        COMFYUI_DIR=str(find_comfyui()),
    )


OF_PICTURES: dict[str, Callable[[], Any]] = {
    "thumbnails": make_thumbnails,
    "node_pictures": lambda: run_script("scripts/make_node_pictures.py"),
    "example_pictures": make_example_pictures,
    "method_pictures": lambda: run_script("scripts/make_method_pictures.py"),
    "training_picture": lambda: run_script("scripts/make_training_picture.py"),
}
# translated is run by hand, after the translations were brought up to date.
_PARTS = (*OF_SOURCES, *OF_NODES, "translated", *OF_PICTURES)


def main() -> None:
    """Make the named parts; all but `translated` without a name."""
    parts = sys.argv[1:] or [part for part in _PARTS if part != "translated"]
    if unknown := set(parts) - set(_PARTS):
        sys.exit(f"unknown part {', '.join(sorted(unknown))}; there are: {' '.join(_PARTS)}")
    # Before the workflows: which sockets their nodes have is read from interface.json.
    if {*OF_NODES, "translated"} & set(parts):
        pack = ask()
        for part, make in OF_NODES.items():
            if part in parts:
                try:
                    write(make(pack))
                except ValueError as error:
                    sys.exit(f"[generated] {error}")
        if "translated" in parts:
            write(make_locale.translated_files(pack))
        for line in make_locale.all_lacking(pack):
            print(f"[generated] {line}")
    if "workflows" in parts:
        make_workflows()
    if "blueprints" in parts:
        make_blueprints()
    for part in {"plans", "recipes"} & set(parts):
        write(OF_SOURCES[part]())
    for part, make_pictures in OF_PICTURES.items():
        if part in parts:
            print(f"[generated] {part}", flush=True)
            make_pictures()


if __name__ == "__main__":
    main()
