"""Weight files: where they are looked for, and how they are read. Nothing is downloaded here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .backbones.base import BackboneSpec

# OpenAI's own CLIP files are TorchScript archives, which torch reads only by running code from them. These are the
# checksums in the addresses that OpenAI publishes (openai/CLIP, clip/clip.py); no other archive is read.
OPENAI_ARCHIVES = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B-32.pt",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B-16.pt",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L-14.pt",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L-14-336px.pt",
}


class MissingWeights(FileNotFoundError):
    """No folder and no cache has a backbone's weights. `downloadable`: whether `download` can fetch them."""

    def __init__(self, message: str, downloadable: bool) -> None:
        super().__init__(message)
        self.downloadable = downloadable


def find_weights(spec: BackboneSpec, folders: Sequence[Path], explicit: Path | None = None) -> Path:
    """The weight file of a backbone: `explicit`, else in the first folder that has one of spec.files, else in a cache.

    Caches are those of Hugging Face, torch.hub and OpenAI's clip; the network is not asked.

    Raises:
        FileNotFoundError: there is no file `explicit`.
        MissingWeights: it says which file, where to put it, how large it is, its licence and where to get it; also
            where a file that belongs beside the weights is not there.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise FileNotFoundError(f"{spec.name}: there is no weight file {explicit}.")
        return _with_companions(spec, explicit)
    for folder in folders:
        for name in spec.files:
            if (folder / name).is_file():
                return _with_companions(spec, folder / name)
    if cached := find_cached(spec):
        return _with_companions(spec, cached)
    facts = ", ".join(fact for fact in (spec.size, spec.licence) if fact)
    raise MissingWeights(
        f"The weights of {spec.name} are missing{f' ({facts})' if facts else ''}: get {spec.source}, and put the file "
        f"as {' or '.join(spec.files)} into one of {', '.join(str(folder) for folder in folders)}.",
        downloadable=bool(spec.hub or spec.url),
    )


def companion(weights: Path, name: str) -> Path:
    """The file that belongs beside weights: named after them (NAME.tokenizer.json), else under its own name."""
    own = weights.with_name(f"{weights.stem}.{name}")
    return own if own.is_file() else weights.with_name(name)


def _with_companions(spec: BackboneSpec, path: Path) -> Path:
    """The weight file, if all that belongs beside it is there. Raises MissingWeights otherwise."""
    for file in spec.beside:
        if not companion(path, file.name).is_file():
            raise MissingWeights(
                f"{spec.name} also needs {file.name}: get it from {file.repository} on Hugging Face, and put it as "
                f"{path.stem}.{file.name} beside {path}.",
                downloadable=True,
            )
    return path


def find_cached(spec: BackboneSpec) -> Path | None:
    """The weight file in a cache that other programs fill, or None."""
    if spec.hub:
        from huggingface_hub import try_to_load_from_cache

        for file in spec.hub:
            cached = try_to_load_from_cache(file.repository, file.name)
            if isinstance(cached, str):  # otherwise None, or a mark for "known not to exist"
                return Path(cached)
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    clip = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clip"
    names = [name for name in spec.files if "/" not in name]
    return next((folder / name for folder in (hub, clip) for name in names if (folder / name).is_file()), None)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            content.update(block)
    return content.hexdigest()


def read_weights(path: Path, archives: Sequence[str] = tuple(OPENAI_ARCHIVES)) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors, .pth, .pt or .bin file, in float32 where they are floating point.

    archives: checksums of the TorchScript archives that may be read.

    Raises:
        ValueError: a file that is not whole or cannot be read safely (a pickle of code, an unknown TorchScript
            archive), that holds anything but the tensors of one model, or that holds NaN or infinite values.
    """
    from safetensors.torch import load_file

    if reason := not_weights(path):
        raise ValueError(f"{path} is not a weight file: {reason}; download it again.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        elif is_archive(path):
            state = read_archive(path, archives)
        else:
            check_size(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and unpickler each raise their own kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as a weight file ({reason}). A download may have stopped: get it "
            "again; a .safetensors file of the same model is the safe choice."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # open_clip's training checkpoints
        state = {key.removeprefix("module."): value for key, value in state["state_dict"].items()}
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds more than the tensors of one model; take the file of the backbone alone.")
    check_tensors(state, path)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for key, value in state.items():
        if value.is_floating_point() and not finite(value):
            raise ValueError(f"{path}: the tensor {key} holds NaN or infinite values; the file is damaged.")
    return state


def finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor of real numbers holds no NaN and nothing infinite: one pass, no second tensor."""
    return tensor.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


_ROOM = 200 << 20  # bytes that reading may take beside four times the file


def check_size(path: Path) -> None:
    """Raise ValueError for a packed archive that holds much more than its own size."""
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _ROOM + 4 * path.stat().st_size:
            raise ValueError(f"it unpacks to {unpacked >> 20:,} MB, much more than its own size")


def check_tensors(state: dict[str, torch.Tensor], path: Path) -> None:
    """Raise ValueError for tensors that are none of a model's, or need much more memory than the file has."""
    room = _ROOM + 4 * path.stat().st_size
    for key, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type != "cpu":
            raise ValueError(f"{path}: the tensor {key} is of an unusual form; save the model's plain tensors.")
        room -= 4 * value.numel()
        if room < 0:
            raise ValueError(f"{path} has tensors that need much more memory than its own size; it is not read.")


def not_weights(path: Path) -> str:
    """The kind of a file that downloads often leave in place of the weights; "" if it is none of these."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start.strip(b"\0"):
        return "it is empty" if not start else "it begins with zeros, like an interrupted download"
    if start.startswith(b"version https://git-lfs"):
        return "it is the pointer that git keeps in place of a large file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page"
    return ""


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path, checksums: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of a TorchScript archive whose checksum is one of these. Raises ValueError for another one."""
    if checksum(path) not in checksums:
        raise ValueError("it is a TorchScript archive, which holds code, and not one of OpenAI's own CLIP files")
    return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
