"""Packages that only one measure or picture needs, and the error message where one is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Where a package is not called as its module.
DISTRIBUTIONS = {"open_clip": "open_clip_torch"}


class MissingPackage(ImportError):
    """A package is not installed; the text says what needs it and how to get it."""


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """A context for imports for `what`, such as "CLIP". Raises MissingPackage where one of them is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        package = DISTRIBUTIONS.get(name, name)
        python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
        raise MissingPackage(
            f"{what} needs the package {package}, which is not installed: install it with "
            f"`{python} -m pip install {package}` and start ComfyUI again.",
            name=name,
        ) from error
