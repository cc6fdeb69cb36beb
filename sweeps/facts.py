"""A server's facts about itself: its nodes, its versions and its folders."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ServerLost

if TYPE_CHECKING:
    from .client import Client


@dataclass(frozen=True)
class Facts:
    """The facts about a server. info: /object_info. models: its folders of models. stats: /system_stats."""

    info: dict[str, Any]
    stats: dict[str, Any]
    models: list[Path]

    @property
    def versions(self) -> dict[str, str]:
        """The versions of ComfyUI, PyTorch and Python, and the device, for the records."""
        system, devices = self.stats.get("system", {}), self.stats.get("devices") or [{}]
        return {
            "comfyui": str(system.get("comfyui_version", "")),
            "torch": str(system.get("pytorch_version", "")),
            "python": str(system.get("python_version", "")).split(" ")[0],
            "device": str(devices[0].get("name", "")),
        }

    @property
    def embeddings(self) -> tuple[str, str] | None:
        """The place that makes a file an embedding: "output" or "input", and the folder in it. None: there is none.

        It takes a folder of embeddings inside those two: no others can be sent to. ComfyUI has none by itself.
        """
        for folder in self.models:
            for place in ("output", "input"):
                if folder.name == "embeddings" and place in self.places and folder.is_relative_to(self.places[place]):
                    return place, folder.relative_to(self.places[place]).as_posix()
        return None

    @property
    def places(self) -> dict[str, Path]:
        """The server's input, output and temporary folders, as far as its command line has them."""
        arguments = [str(word) for word in self.stats.get("system", {}).get("argv", ())]
        options = dict(zip(arguments, arguments[1:]))
        base = options.get("--base-directory") or (str(Path(arguments[0]).parent) if arguments else "")
        folders = {}
        for place in ("input", "output", "temp"):
            folder = options.get(f"--{place}-directory")
            path = Path(folder) / ("temp" if place == "temp" else "") if folder else Path(base) / place
            if path.is_absolute():
                folders[place] = path
        return folders


async def facts_of(client: Client) -> Facts:
    """Ask a server about itself. Raises ServerLost."""
    info, stats, models = await asyncio.gather(
        client.get("/object_info"), client.get("/system_stats"), client.get("/experiment/models")
    )
    if not isinstance(info, dict) or not isinstance(stats, dict):
        raise ServerLost(f"{client.url} does not answer as a ComfyUI server: check the address.")
    return Facts(info, stats, [Path(folder) for item in models or () for folder in item["folders"]])
