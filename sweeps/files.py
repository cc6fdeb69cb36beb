"""The files that a workflow names: looked up in the server's folders, identified by their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .schema import Info, inputs_of

SWEEPS_FOLDER = "deft_sweeps"  # below the input, output and loras folders of a server; names in it hold a digest
_HASHED_START = 64 * 1024  # bytes of a model file that are hashed where it has no safetensors header
LARGEST_HEADER = 100 * 2**20
_MODEL_SUFFIXES = {".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"}
_SUFFIX = re.compile(r"\.\w{1,12}$")
PLACE = re.compile(r" \[(input|output|temp)\]$")  # how ComfyUI's widgets name a folder
EMBEDDING = re.compile(r"embedding:([^\s,()\[\]:]+)")


def file_digest(path: Path) -> str:
    """A digest of a file's content; of a model file, of its size and header; of a folder, of all that is in it.

    Raises OSError for what cannot be read.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for item in sorted(path.rglob("*")):
            if item.is_file() and not item.name.startswith("."):
                digest.update(f"{item.relative_to(path).as_posix()}\0{file_digest(item)}\0".encode())
    elif path.suffix.lower() in _MODEL_SUFFIXES:
        with open(path, "rb") as file:
            start = file.read(_HASHED_START)
            length = int.from_bytes(start[:8], "little")
            if path.suffix.lower() in (".safetensors", ".sft") and _HASHED_START < length + 8 <= LARGEST_HEADER:
                start += file.read(length + 8 - _HASHED_START)
        digest.update(f"{path.stat().st_size}\0".encode() + start)
    else:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class Files:
    """The files of a server, by the names that workflows use. This one looks at none: names alone identify them."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.uploaded: dict[Path, str] = {}

    def look_up(self, name: str) -> str:
        """The digest of a file or folder of that name, "" if there is none."""
        return ""

    def digest(self, name: str, combo: bool) -> str:
        """The digest of what a value names, "" if it names no file. combo: it is a choice, not free text."""
        if not name or len(name) > 400 or "\n" in name or not (combo or _SUFFIX.search(name)):
            return ""
        if name.startswith(f"{SWEEPS_FOLDER}/"):  # the name says what it is
            return ""
        if name not in self.digests:
            self.digests[name] = self.look_up(name)
        return self.digests[name]

    def digests_of(self, info: Info, node: Mapping[str, Any], name: str, value: Any) -> list[str]:
        """The digests of the files that the value of a node's input names, embeddings in a text among them."""
        if isinstance(value, list):
            return [digests for item in value for digests in self.digests_of(info, node, name, item)]
        if not isinstance(value, str):
            return []
        item = inputs_of(info[node["class_type"]], node["inputs"]).get(name)
        digests = [self.digest(value, combo=item is not None and item.type == "COMBO")]
        for embedding in EMBEDDING.findall(value):
            digests += [self.digest(embedding + suffix, combo=True) for suffix in ("", ".safetensors", ".pt", ".bin")]
        return [digest for digest in digests if digest]

    def upload_name(self, path: Path) -> str:
        """The server's name of a file or folder of this machine after it was sent there."""
        if path not in self.uploaded:
            self.uploaded[path] = f"{SWEEPS_FOLDER}/{file_digest(path)[:16]}/{path.name}"
        return self.uploaded[path]


class LocalFiles(Files):
    """The files of a server on this machine (or of one that has the same folders).

    models: folders of models. places: input, output and temp.
    """

    def __init__(self, models: Sequence[Path], places: Mapping[str, Path]) -> None:
        super().__init__()
        self.models, self.places = list(models), dict(places)

    def look_up(self, name: str) -> str:
        """The first of that name in the input folder, then in the folders of models."""
        place = PLACE.search(name)
        if place:
            roots, name = [self.places[place[1]]] if place[1] in self.places else [], name[: place.start()]
        else:
            roots = [*([self.places["input"]] if "input" in self.places else []), *self.models]
        for root in roots:
            path = root / name
            if path.exists() and path.resolve() != root.resolve():
                return file_digest(path)
        return ""


class ServerFiles(Files):
    """The files of a server whose folders are not here: pictures by content, models by size and header's metadata.

    get: path of a request -> the body of the answer, None if there is none.
    """

    def __init__(self, get: Callable[[str, Mapping[str, str]], bytes | None]) -> None:
        super().__init__()
        self.get = get
        self.models: dict[str, tuple[str, Any]] | None = None

    def look_up(self, name: str) -> str:
        """Look a file up in the server's list of models, then in what it shows of its input folder."""
        if self.models is None:
            self.models = {}
            for folder in json.loads(self.get("/experiment/models", {}) or b"[]"):
                for model in json.loads(self.get(f"/experiment/models/{folder['name']}", {}) or b"[]"):
                    self.models.setdefault(model["name"], (folder["name"], model.get("size")))
        if name in self.models:
            folder, size = self.models[name]
            metadata = self.get(f"/view_metadata/{folder}", {"filename": name}) or b""
            return hashlib.sha256(f"{size}\0".encode() + metadata).hexdigest()
        place = PLACE.search(name)
        bare = name[: place.start()] if place else name
        if not _SUFFIX.search(bare):
            return ""
        subfolder, _, file = bare.rpartition("/")
        body = self.get("/view", {"filename": file, "subfolder": subfolder, "type": place[1] if place else "input"})
        return hashlib.sha256(body).hexdigest() if body is not None else ""
