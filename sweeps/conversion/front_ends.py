"""The versions of ComfyUI's front end whose rules are known here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PACKAGE = "comfyui-frontend-package"
Version = tuple[int, int]
# The subgraphs' hosts have values of their own in the last one, and none in the first.
FIRST, LAST, BEYOND = (1, 45), (1, 47), (1, 48)


def front_end_of(stats: Mapping[str, Any]) -> str:
    """The version of the page that a server gives people, from its /system_stats; "" where they do not say it."""
    system = stats.get("system") or {}
    words = [str(word) for word in system.get("argv") or ()]
    options = dict(zip(words, words[1:]))
    if "--front-end-root" in options:
        return ""
    if "--front-end-version" in options:
        return options["--front-end-version"].rpartition("@")[2].removeprefix("v")
    for package in system.get("comfy_package_versions") or ():
        if package.get("name") == _PACKAGE and package.get("installed"):
            return str(package["installed"])
    return str(system.get("required_frontend_version") or "")


def numbered(version: str) -> Version | None:
    """The first two numbers of a version; None if it has none, such as "latest"."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def written(version: Version) -> str:
    """A version's first two numbers."""
    return ".".join(map(str, version))
