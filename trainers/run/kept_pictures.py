"""Sampled pictures kept on disk by what they are made of, so that each is sampled once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ...deft_ops.costs import COST_KEY
from ...deft_ops.files.safe import write_files
from ...models.fingerprint import fingerprint
from ..settings.run import digest
from .report import described

_FORM = 1  # of the key; another one where pictures are made in another way
_PART = 1 << 24  # bytes


def content_of(file: Path) -> str:
    """A hash of an adapter's file. What the training cost is left out: the same training again gives the same hash."""
    content = hashlib.blake2b(digest_size=16)
    with file.open("rb") as opened:
        size = opened.read(8)
        length = int.from_bytes(size, "little")
        header = opened.read(length) if file.suffix == ".safetensors" and length < 1 << 27 else b""
        try:
            entries = json.loads(header)
            entries.get("__metadata__", {}).pop(COST_KEY, None)
            header = json.dumps(entries, sort_keys=True).encode()
        except (ValueError, AttributeError, RecursionError):
            header = size + header
        content.update(header)
        while part := opened.read(_PART):
            content.update(part)
    return content.hexdigest()


def model_key(model: Any) -> str:
    """What a MODEL's pictures depend on: its weights, what is patched onto them, and how it is sampled."""
    sampling = model.model.model_sampling
    return digest(
        {
            "base": fingerprint(model),
            "patches": {str(key): described(model.patches[key]) for key in sorted(model.patches, key=str)},
            "sampling": [type(sampling).__name__, float(sampling.percent_to_sigma(0.5))],
            "device": str(model.load_device.type),
        }
    )


@dataclass(frozen=True)
class KeptPictures:
    """Pictures in a folder, as PNG files by the key of what they are made of."""

    folder: Path

    def file(self, about: Mapping[str, Any]) -> Path:
        """The file of the picture that is made of this."""
        text = json.dumps([_FORM, dict(about)], sort_keys=True, default=str)
        return self.folder / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.png"

    def has(self, about: Mapping[str, Any]) -> bool:
        """Whether the picture is kept. A file that is no whole picture counts as none."""
        try:
            with Image.open(self.file(about)) as picture:
                picture.verify()
        except (OSError, SyntaxError, UnidentifiedImageError, ValueError):
            return False
        return True

    def keep(self, about: Mapping[str, Any], picture: Tensor) -> None:
        """Keep a picture [h, w, 3] in 0 to 1, in 8 bits as Save Image has them, with what it is made of."""
        values = np.clip(255.0 * picture.detach().cpu().float().numpy(), 0, 255).astype(np.uint8)
        info, target = PngInfo(), BytesIO()
        info.add_text("made_of", json.dumps(dict(about), sort_keys=True, default=str))
        Image.fromarray(values).save(target, "PNG", pnginfo=info, compress_level=4)
        file = self.file(about)
        write_files(file.parent, {file.name: target.getvalue()})
