"""Uninstall, from the environment of the Python that runs this, what requirement files neither name nor bring.

/path/to/environment/bin/python scripts/keep_packages.py requirements.txt ...
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_ALWAYS = {"pip", "setuptools"}


def requirements(files: list[str]) -> list[Requirement]:
    """The lines of requirement files, without comments."""
    listed = []
    for file in files:
        with open(file) as lines:
            listed += [Requirement(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    return listed


def needed_packages(named: list[Requirement]) -> set[str]:
    """The canonical names of the installed packages that these requirements name, and of all that they bring."""
    seen: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(item.name), extra) for item in named for extra in ("", *item.extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            try:
                needed = Requirement(line)
            except InvalidRequirement:  # some old packages' metadata
                continue
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(needed.name), wish) for wish in ("", *needed.extras)]
    return {name for name, _ in seen} | _ALWAYS


def main() -> None:
    """Command line."""
    installed = {canonicalize_name(item.metadata["Name"]) for item in metadata.distributions()}
    gone = sorted(installed - needed_packages(requirements(sys.argv[1:])))
    if gone:
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "-qq", "-y", *gone], stdout=sys.stderr, check=True)


if __name__ == "__main__":
    main()
