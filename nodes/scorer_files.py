"""The weight files of scorers: where they are looked for, which are there, and the download of those that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths

from ..scoring.backbones import BackboneSpec
from ..scoring.protocols import PROTOCOLS, Protocol, get_protocol
from ..scoring.weights import MissingWeights, find_weights

_FOLDER = "scorers"
CATEGORIES = ("clip_vision", "text_encoders", _FOLDER)  # in the order in which they are looked through
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
BY_NAME = "auto"


def register_folder() -> None:
    """Register models/scorers at ComfyUI, so that extra_model_paths.yaml can add to it."""
    folder_paths.add_model_folder_path(_FOLDER, str(Path(folder_paths.models_dir) / _FOLDER))


def weight_folders() -> list[Path]:
    """The folders in which weight files are looked for, in order; the pack's own demo models last."""
    register_folder()
    named = [Path(folder) for category in CATEGORIES for folder in folder_paths.get_folder_paths(category)]
    return [*named, Path(__file__).parent.parent / "demo" / "models"]


def weight_files() -> list[str]:
    """The names that the override widgets offer."""
    register_folder()
    names = {name for category in CATEGORIES for name in folder_paths.get_filename_list(category)}
    return [BY_NAME, *sorted(name for name in names if name.endswith(_SUFFIXES))]


def is_offered(name: str) -> bool:
    """Whether a weight file is in one of the folders."""
    register_folder()
    return any(folder_paths.get_full_path(category, name) for category in CATEGORIES)


def explicit_path(name: str) -> Path:
    """The file that an override widget names. Raises FileNotFoundError if it is in none of the folders."""
    register_folder()
    for category in CATEGORIES:
        if path := folder_paths.get_full_path(category, name):
            return Path(path)
    raise FileNotFoundError(f"There is no weight file {name!r} in models/{', models/'.join(CATEGORIES)}.")


def usual_files(kind: str) -> set[str]:
    """The file names that `auto` looks for, of all protocols. kind: of the backbones."""
    backbones = [spec for name in PROTOCOLS for spec in get_protocol(name).backbones.values()]
    return {name for spec in backbones if spec.kind == kind for name in spec.files}


def explicit_files(protocol: dict[str, Any], clip: str | None, dino: str | None, dinov2: str | None) -> dict[str, Path]:
    """The overrides by kind, without those left at auto, and without usual names that are not there: the examples name
    those for the page to offer their download, and elsewhere or under another name auto finds the same weights."""
    names = {"clip": clip, "dino": dino, "dinov2": dinov2, "timm": protocol.get("image_weights", BY_NAME)}
    explicit = {}
    for kind, name in names.items():
        if name not in (BY_NAME, None) and (is_offered(name) or name not in usual_files(kind)):
            explicit[kind] = explicit_path(name)
    return explicit


async def fetch_missing(protocol: Protocol, explicit: dict[str, Path]) -> None:
    """Download the weights that are not there into models/scorers, with a progress bar. Optional ones that nobody
    offers for download stay missing.
    """
    from ..scoring.download import download

    register_folder()
    for kind, spec in protocol.backbones.items():
        optional = not protocol.needs(kind) and not (spec.hub or spec.url)
        if kind not in explicit and not there(spec) and not optional:
            bar = comfy.utils.ProgressBar(100)

            def progress(done: int, total: int, bar: Any = bar) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                bar.update_absolute(done, total or done)

            await download(spec, Path(folder_paths.get_folder_paths(_FOLDER)[0]), progress)


def there(spec: BackboneSpec) -> bool:
    """Whether the weights of a backbone are on this machine."""
    try:
        find_weights(spec, weight_folders())
    except FileNotFoundError:
        return False
    return True


def ready() -> list[str]:
    """The protocols that need nothing which is not on this machine; weights of optional metrics may be missing."""
    protocols = {name: get_protocol(name) for name in PROTOCOLS}
    return [
        name
        for name, protocol in protocols.items()
        if all(there(spec) for kind, spec in protocol.backbones.items() if protocol.needs(kind))
    ]


def ready_line() -> str:
    """The protocols that are ready, for messages and reports; the page marks them in the list (web/deft/ready.mjs)."""
    return f"Protocols that are ready on this machine: {', '.join(ready()) or 'none'}."


def advice(error: MissingWeights) -> str:
    """The error message for missing weights at Load Scorer: first what is done with a click."""
    if not error.downloadable:
        return f"{error} {ready_line()}"
    return (
        f"Switch download on at this node and run again: it fetches what is missing. Or by hand: {error} {ready_line()}"
    )
