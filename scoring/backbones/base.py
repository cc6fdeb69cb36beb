"""A backbone: an encoder of pictures (and, for CLIP, texts) with its weights and its preprocessing."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from ..preprocessing import Preprocess


@dataclass(frozen=True)
class EncoderSettings:
    """The settings that belong to a set of weights and must not drift from it.

    architecture: a model name of open_clip (clip) or timm (dino, dinov2, timm), or the arguments of open_clip's CLIP or
    timm's VisionTransformer. merges: the tokenizer's file, if not CLIP's own. checks: numbers that right weights give,
    for `verify` (see there).
    """

    architecture: str | dict[str, Any]
    preprocess: Preprocess
    merges: Path | None = None
    checks: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class HubFile:
    """A file on Hugging Face. sha256: its checksum or the first digits of it, where they are known from elsewhere."""

    repository: str
    name: str
    sha256: str = ""


@dataclass(frozen=True)
class BackboneSpec:
    """The description of a backbone, and which files may hold it. The name is written beside each score.

    kind: a key of `backbones.KINDS`. files: names in the user's folders. hub: files that are looked for in the Hugging
    Face cache; the first is what a download takes. url: another source of the first of `files`, with its checksum in
    `sha256`. beside: files that belong beside the weights (see `weights.companion`). settings None: a JSON file beside
    the weights gives them ({"open_clip" or "timm": {...}, "preprocess": {...}, "merges": file, "checks": [...]}).
    """

    name: str
    kind: str
    files: tuple[str, ...]
    size: str
    source: str
    settings: EncoderSettings | None = None
    hub: tuple[HubFile, ...] = ()
    url: str = ""
    sha256: str = ""
    licence: str = ""
    beside: tuple[HubFile, ...] = ()


@dataclass(frozen=True)
class WeightFile:
    """The file that a backbone's weights came from, for the records."""

    name: str
    sha256: str


class Backbone:
    """A loaded encoder, in float32 and evaluation mode.

    name: written beside each score. identity: what the weights look like. fingerprint: stands for weights and
    preprocessing, so that features can be kept. module: the network. place, batch, before_use: where and how many
    pictures a forward computes, and what is called before; make_room: called where the memory was not enough.
    ComfyUI's memory management sets them. most: the largest batch that the memory has not been too small for. factor:
    what the model's own score multiplies the cosine by.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        preprocess: Preprocess,
        module: Any,
        *,
        fingerprint: str,
        encode_image: Callable[[torch.Tensor], torch.Tensor] | None,
        encode_text: Callable[[torch.Tensor], torch.Tensor] | None = None,
        tokenizer: Any = None,
        context: int = 0,
        weights: WeightFile | None = None,
        checks: tuple[dict[str, Any], ...] = (),
        factor: float = 1.0,
        marks: int = 2,
    ) -> None:
        """Use `load_backbone`. encode_image: [n, 3, h, w] -> [n, d]. encode_text: [n, context] -> [n, d].

        marks: how many tokens the tokenizer adds to those of a text.

        Without encode_image it has no features, and a metric gives pictures to the module.
        """
        self.name, self.kind, self.preprocess = name, kind, preprocess
        self.module = module.eval().requires_grad_(False)
        self.fingerprint = f"{fingerprint} {preprocess}"
        self.weights, self.checks, self.identity = weights, checks, name
        self.tokenizer, self.context, self._marks = tokenizer, context, marks
        self.factor = factor
        self.place = torch.device("cpu")
        self.batch = 4  # a CPU gains nothing from more
        self.most = sys.maxsize
        self.before_use: Callable[[], None] = lambda: None
        self.make_room: Callable[[], None] = lambda: None
        self._encode_image, self._encode_text = encode_image, encode_text

    @classmethod
    def of(
        cls, spec: BackboneSpec, settings: EncoderSettings, module: Any, weights: WeightFile, **given: Any
    ) -> Backbone:
        """The backbone of a network with its weights; `given` are other arguments of the constructor.

        Unless given, the fingerprint is the weights' and the network itself encodes pictures.
        """
        given = {"fingerprint": weights.sha256, "encode_image": module, "checks": settings.checks} | given
        return cls(spec.name, spec.kind, settings.preprocess, module, weights=weights, **given)

    @property
    def reads_text(self) -> bool:
        """Whether there is a text encoder."""
        return self._encode_text is not None

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Preprocessed pictures [n, 3, h, w] -> L2-normalised features, float32 [n, d], on the CPU."""
        assert self._encode_image is not None, f"{self.name} has no features"
        return F.normalize(self._in_parts(self._encode_image, pixels), dim=-1)

    def encode_images(self, pictures: Sequence[Image.Image], batch: int = 16) -> torch.Tensor:
        """RGB pictures of any sizes -> L2-normalised features, float32 [count, d], on the CPU."""
        return torch.cat(
            [
                self.encode_pixels(
                    torch.stack([self.preprocess(picture) for picture in pictures[start : start + batch]])
                )
                for start in range(0, len(pictures), batch)
            ]
        )

    def tokens(self, text: str) -> int:
        """The number of tokens of a text, with the marks at its ends."""
        return len(self.tokenizer.encode(text)) + self._marks

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], truncate: bool = True) -> torch.Tensor:
        """Texts -> L2-normalised features, float32 [count, d], on the CPU. Only where `reads_text`.

        Longer texts than the model reads are cut (the end mark stays), or raise ValueError if not `truncate`.
        """
        assert self._encode_text is not None, f"{self.name} has no text encoder"
        for text in () if truncate else texts:
            if (length := self.tokens(text)) > self.context:
                raise ValueError(f"{self.name} reads {self.context} tokens, this text has {length}; shorten it: {text}")
        return F.normalize(self._in_parts(self._encode_text, self.tokenizer(list(texts))), dim=-1)

    def _in_parts(self, encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """What an encoder makes of a batch, float32 on the CPU, in one forward if the memory is enough.

        Where it is not, room is made first; if that does not help, batches are half as large from then on. Raises what
        PyTorch raised where there is no room for a single one.
        """
        parts: list[torch.Tensor] = []
        done, made_room = 0, False
        while done < len(inputs):
            size = min(self.most, len(inputs) - done)
            try:
                self.before_use()
                part = encode(inputs[done : done + size].to(self.place)).float().cpu()
            except RuntimeError as error:
                if not out_of_memory(error) or (made_room and size == 1):
                    raise
            else:
                parts.append(part)
                done += size
                continue
            # Outside of the handler: the error's frames hold the tensors that filled the memory.
            if made_room:
                self.most = size // 2
                logging.warning(
                    f"{self.name}: the memory is not enough for a batch of {size}; {self.most} from now on."
                )
            self.make_room()
            made_room = True
        return torch.cat(parts)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch's means that the memory of the device, or of the machine, was too small."""
    words = "out of memory", "can't allocate memory", "not enough memory"
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error).lower() for part in words)


def renamed(
    state: Mapping[str, torch.Tensor], names: Iterable[tuple[str, str]], fused: str, parts: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The tensors under another program's names, with query, key and value [d, ...] as one [3 d, ...].

    names: patterns and what replaces them, used in this order. fused: what is in the names of query, key and value,
    with {} for one of `parts`; the joined tensor has the name of the first.
    """
    first, *others = (fused.format(part) for part in parts)
    result = {}
    for key, value in state.items():
        if any(other in key for other in others):
            continue
        if first in key:
            value = torch.cat([value, *(state[key.replace(first, other)] for other in others)])
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        result[key] = value
    return result


def load_state(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, name: str) -> None:
    """Load every tensor. Raises ValueError that says what is missing, unknown or of another shape."""
    from .identify import identify

    own_state = module.state_dict()
    missing, unknown = sorted(own_state.keys() - state.keys()), sorted(state.keys() - own_state.keys())
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(own_state[key].shape)}"
        for key in sorted(own_state.keys() & state.keys())
        if own_state[key].shape != state[key].shape
    ]
    if missing or unknown or shapes:
        parts = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
        what = "; ".join(f"{len(keys)} tensors {word}, such as {keys[0]:.100}" for word, keys in parts if keys)
        looks = identify(state)
        raise ValueError(f"{path} does not hold {name}: {what}." + (f" It looks like {looks}." if looks else ""))
    module.load_state_dict(state)
