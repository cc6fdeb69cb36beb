"""Features of many pictures by several backbones: each picture is read once, and no feature is computed twice.

Pictures are read, hashed and preprocessed by other threads while the backbones work. Only a few batches are in memory
at any time.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import torch
from PIL import Image

from .backbones import Backbone
from .pictures import digest, is_flat

_TEXTS = 32  # texts a forward
BLOCK = 1024  # features that are allocated at once

CachePlace = tuple[torch.Tensor, int]  # a block [BLOCK, d] and a row in it


class FeatureStore:
    """Features by backbone and content, the least used forgotten beyond `limit` bytes.

    They lie in large blocks: thousands of small pieces between the short-lived pixels would keep the memory of those.
    """

    def __init__(self, limit: int = 256 * 2**20) -> None:
        """Start empty. limit: 256 MiB hold 170,000 features of DINO ViT-S."""
        self.limit, self.size = limit, 0
        self._places: OrderedDict[tuple[str, str], CachePlace] = OrderedDict()
        self._free: dict[int, list[CachePlace]] = {}
        self._lock = Lock()

    def get(self, backbone: Backbone, content: str) -> torch.Tensor | None:
        """The feature [d], or None."""
        key = (backbone.fingerprint, content)
        with self._lock:
            if key not in self._places:
                return None
            self._places.move_to_end(key)
            block, row = self._places[key]
            return block[row].clone()

    def put(self, backbone: Backbone, content: str, feature: torch.Tensor) -> None:
        """Keep a feature [d]."""
        key = (backbone.fingerprint, content)
        with self._lock:
            if key in self._places:
                return
            free = self._free.setdefault(len(feature), [])
            if not free:
                block = torch.empty(BLOCK, len(feature))
                free += [(block, row) for row in range(BLOCK)]
            block, row = self._places[key] = free.pop()
            block[row] = feature
            self.size += _bytes(block)
            while self.size > self.limit:
                _, place = self._places.popitem(last=False)
                self._free[place[0].shape[1]].append(place)
                self.size -= _bytes(place[0])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._places.clear()
            self._free.clear()
            self.size = 0


def _bytes(block: torch.Tensor) -> int:
    """The bytes of one feature in a block."""
    return block.shape[1] * block.element_size()


STORE = FeatureStore()


@dataclass(frozen=True)
class Embedded:
    """Embedded pictures. features: [count, d] by kind of backbone, L2-normalised.

    digests: one of each picture. flat: the places of the pictures of one colour.
    """

    features: dict[str, torch.Tensor]
    digests: tuple[str, ...]
    flat: tuple[int, ...]


@dataclass
class _Prepared:
    """A picture for the backbones: its feature where it is known, else its pixels, by kind."""

    digest: str
    flat: bool
    features: dict[str, torch.Tensor]
    pixels: dict[str, torch.Tensor]


def embed_images(
    backbones: Mapping[str, Backbone],
    pictures: Sequence[Image.Image],
    progress: Callable[[int], None] = lambda done: None,
    store: FeatureStore = STORE,
    batch: int | None = None,
) -> Embedded:
    """Features of RGB pictures, which may be made or read when they are asked for.

    progress: called with the number of pictures done; what it raises ends the work. batch: pictures a forward.
    """
    batch = batch or max((backbone.batch for backbone in backbones.values()), default=1)
    digests: list[str] = []
    flat: list[int] = []
    rows: dict[str, torch.Tensor] = {}
    for group in _batches(_prepared(backbones, pictures, batch, store), batch):
        flat += [len(digests) + index for index, item in enumerate(group) if item.flat]
        digests += [item.digest for item in group]
        for kind, backbone in backbones.items():
            computed = {item.digest: item.features[kind] for item in group if kind in item.features}
            for item in group:  # an equal picture may have come since this one was prepared
                if item.digest not in computed and (feature := store.get(backbone, item.digest)) is not None:
                    computed[item.digest] = feature
            new = {item.digest: item.pixels[kind] for item in group if item.digest not in computed}
            if new:
                features = backbone.encode_pixels(torch.stack(list(new.values())))
                computed |= dict(zip(new, features, strict=True))
                for content in new:
                    store.put(backbone, content, computed[content])
            stacked = torch.stack([computed[item.digest] for item in group])
            if kind not in rows:
                rows[kind] = torch.empty(len(pictures), stacked.shape[1])
            rows[kind][len(digests) - len(group) : len(digests)] = stacked
        progress(len(digests))
    return Embedded(rows, tuple(digests), tuple(flat))


def _prepared(
    backbones: Mapping[str, Backbone], pictures: Sequence[Image.Image], batch: int, store: FeatureStore
) -> Iterator[_Prepared]:
    """Pictures made ready by other threads, in order, at most two batches ahead."""

    def prepare(index: int) -> _Prepared:
        picture = pictures[index]
        content = digest(picture)
        features = {
            kind: feature
            for kind, backbone in backbones.items()
            if (feature := store.get(backbone, content)) is not None
        }
        pixels = {kind: backbone.preprocess(picture) for kind, backbone in backbones.items() if kind not in features}
        return _Prepared(content, is_flat(picture), features, pixels)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), "scoring") as pool:
        waiting: deque[Future[_Prepared]] = deque()
        try:
            for index in range(len(pictures)):
                waiting.append(pool.submit(prepare, index))
                if len(waiting) > 2 * batch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error or a cancellation nothing more is read
            for future in waiting:
                future.cancel()


def _batches(items: Iterator[_Prepared], size: int) -> Iterator[list[_Prepared]]:
    """Lists of `size` items, the last one shorter."""
    group: list[_Prepared] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def embed_texts(backbone: Backbone, texts: Sequence[str], truncate: bool, store: FeatureStore = STORE) -> torch.Tensor:
    """Features [count, d] of texts, each different text computed once. Raises ValueError as `encode_texts`."""
    keys = {text: f"text {truncate} {text}" for text in texts}
    new = [text for text in keys if store.get(backbone, keys[text]) is None]
    features = {text: feature for text in keys if (feature := store.get(backbone, keys[text])) is not None}
    for start in range(0, len(new), _TEXTS):
        part = new[start : start + _TEXTS]
        features |= dict(zip(part, backbone.encode_texts(part, truncate), strict=True))
    for text in new:
        store.put(backbone, keys[text], features[text])
    return torch.stack([features[text] for text in texts])
