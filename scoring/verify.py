"""Does a weight file give the numbers that others have published for it? No picture is needed.

For CLIP ViT-B/32 and ViT-B/16 there are published numbers of constant pixels, random pixels and texts. DINO and DINOv2
have none that need no picture; for them the check says which model the file is by its names and shapes, and that its
features are sound. The demo's scorers carry their own numbers beside their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .backbones import KINDS, Backbone, BackboneSpec, load_backbone
from .backbones.identify import identify
from .protocols import specs
from .protocols.custom import clip_spec
from .settings_file import Fields, read_object
from .weights import read_weights

TORCHMETRICS = "torchmetrics, CLIPScore's examples"
CHEF = (
    "28-year-old chef found dead in San Francisco mall",
    "A 28-year-old chef who recently moved to San Francisco was found dead.",
)


@dataclass(frozen=True)
class Check:
    """Numbers that right weights give, and who published them."""

    what: str
    measure: Callable[[Backbone], list[float]]
    expected: tuple[float, ...]
    tolerance: float
    source: str
    text: bool = False  # whether a text encoder is needed


def noise_pictures() -> list[Image.Image]:
    """The two pictures of torchmetrics' examples: integers below 255 from seeds 42 and 43."""
    return [
        Image.fromarray(
            torch.randint(255, (3, 224, 224), generator=torch.Generator().manual_seed(seed))
            .permute(1, 2, 0)
            .to(torch.uint8)
            .numpy()
        )
        for seed in (42, 43)
    ]


def constant(backbone: Backbone, value: float = 0.5) -> torch.Tensor:
    """Normalised feature [d] of pixels that all have one value after preprocessing."""
    side = backbone.preprocess.crop
    return backbone.encode_pixels(torch.full((1, 3, side, side), value))[0]


def _direction(values: torch.Tensor) -> list[float]:
    """The values up to a common factor, so that features can be compared with published ones before normalisation."""
    return torch.nn.functional.normalize(values, dim=0).tolist()


def _cosine(backbone: Backbone) -> list[float]:
    picture = backbone.encode_images(noise_pictures()[:1])
    return [100 * float(picture @ backbone.encode_texts(["a photo of a cat"]).T)]


def _pictures(backbone: Backbone) -> list[float]:
    one, other = backbone.encode_images(noise_pictures())
    return [100 * float(one @ other)]


def _texts(backbone: Backbone) -> list[float]:
    one, other = backbone.encode_texts(CHEF)
    return [100 * float(one @ other)]


# By what `identify` says of OpenAI's weights.
CHECKS: dict[str, tuple[Check, ...]] = {
    # Of openai/clip-vit-base-patch32 bumblebee gives the projection [-0.3381, -0.0196, -0.4053] of pixels 0.5 before
    # normalisation; fastembed the first five of the normalised "hello world".
    "CLIP ViT-B/32": (
        Check(
            "pixels of 0.5: direction of features 1 to 3",
            lambda b: _direction(constant(b)[1:4]),
            tuple(_direction(torch.tensor([-0.3381, -0.0196, -0.4053]))),
            5e-4,
            "elixir-nx/bumblebee, test/bumblebee/vision/clip_vision_test.exs",
        ),
        Check(
            'text "hello world": features 0 to 4',
            lambda b: b.encode_texts(["hello world"])[0, :5].tolist(),
            (0.0083, 0.0103, -0.0138, 0.0199, -0.0069),
            1e-3,
            "qdrant/fastembed, tests/test_text_onnx_embeddings.py",
            text=True,
        ),
    ),
    "CLIP ViT-B/16": (
        Check('100 x cosine of noise and "a photo of a cat"', _cosine, (24.426,), 0.05, TORCHMETRICS, text=True),
        Check("100 x cosine of two noise pictures", _pictures, (99.486,), 0.05, TORCHMETRICS),
        Check("100 x cosine of two texts", _texts, (91.395,), 0.05, TORCHMETRICS, text=True),
    ),
}


@dataclass(frozen=True)
class CheckResult:
    """One check that was made. passed None: there was nothing to compare with."""

    what: str
    measured: tuple[float, ...]
    expected: tuple[float, ...]
    passed: bool | None
    source: str

    def __str__(self) -> str:
        """A line to read."""
        mark = {True: "right", False: "WRONG", None: "not compared"}[self.passed]
        numbers = ", ".join(f"{value:.4f}" for value in self.measured)
        expected = f", expected {', '.join(f'{value:.4f}' for value in self.expected)} ({self.source})"
        return f"{mark}: {self.what}: {numbers}{expected if self.expected else ''}"


@dataclass(frozen=True)
class Verification:
    """The verification of a weight file: its model, and whether it gives the published numbers."""

    name: str
    model: str
    weights: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool | None:
        """Whether all published numbers are met; None if there is none for this model."""
        outcomes = [result.passed for result in self.results if result.passed is not None]
        return all(outcomes) if outcomes else None

    def report(self) -> str:
        """A few lines to read."""
        verdict = {
            True: "gives the expected numbers",
            False: "does NOT give the expected numbers: other weights of this architecture, not OpenAI's, or "
            "a damaged file",
            None: "names and shapes are right; nobody has published a number that needs no picture",
        }[self.passed]
        return "\n".join(
            [f"{self.name} ({self.model}; {self.weights}): {verdict}.", *(f"  {result}" for result in self.results)]
        )


def verify(backbone: Backbone) -> Verification:
    """Compare a loaded backbone with the published numbers of its model, and with those beside its weights."""
    checks = [
        *(check for model, of_model in CHECKS.items() if backbone.identity.startswith(model) for check in of_model),
        *(beside_weights(record) for record in backbone.checks),
    ]
    results = [_run(check, backbone) for check in checks if backbone.reads_text or not check.text]
    one, other = backbone.encode_images(noise_pictures())
    likeness = float(one @ other)
    sound = None if likeness < 1 - 1e-6 and bool(torch.isfinite(one).all()) else False
    results.append(
        CheckResult("features are finite and differ between two pictures: cosine", (likeness,), (), sound, "")
    )
    weights = f"{backbone.weights.name}, SHA-256 {backbone.weights.sha256}" if backbone.weights else "no file"
    return Verification(backbone.name, backbone.identity, weights, tuple(results))


def _run(check: Check, backbone: Backbone) -> CheckResult:
    measured = check.measure(backbone)
    passed = all(abs(ours - theirs) <= check.tolerance for ours, theirs in zip(measured, check.expected, strict=True))
    return CheckResult(check.what, tuple(measured), check.expected, passed, check.source)


def beside_weights(record: Mapping[str, Any]) -> Check:
    """A check from the JSON file beside weights: {"pixels": value} or {"text": text}, "features", "source".

    features: the first ones of the normalised feature.
    """
    expected, source = tuple(float(value) for value in record["features"]), str(record["source"])
    count = len(expected)
    if "text" in record:
        text = str(record["text"])
        return Check(
            f'text "{text}": first features',
            lambda b: b.encode_texts([text])[0, :count].tolist(),
            expected,
            1e-5,
            source,
            text=True,
        )
    value = float(record["pixels"])
    return Check(
        f"pixels of {value:g}: first features", lambda b: constant(b, value)[:count].tolist(), expected, 1e-5, source
    )


def load_file(path: Path) -> Backbone:
    """Any weight file that the protocols know, or one with its settings in a JSON file beside it.

    Raises ValueError for a file that looks like none of them.
    """
    beside = path.with_suffix(".json")
    settings = read_object(beside) if beside.is_file() else {}
    if "kind" in settings:  # other programs put JSON files beside weights, too
        kind = Fields(beside, settings).text("kind")
        if kind not in KINDS:
            raise ValueError(f"{beside}: kind must be one of {', '.join(KINDS)}, not {kind[:60]!r}.")
        return load_backbone(BackboneSpec(path.stem, kind, (), "", ""), (), path)
    state = read_weights(path)
    looks_like = identify(state)
    for start, spec in known_models().items():
        if looks_like.startswith(start):
            return load_backbone(spec, (), path, state)
    raise ValueError(
        f"{path} looks like {looks_like or 'no model that is known here'}; known are {', '.join(known_models())}."
    )


def known_models() -> dict[str, BackboneSpec]:
    """The backbones by the beginning of what `identify` says of them."""
    return {
        "CLIP ViT-B/32": specs.CLIP_B32,
        "CLIP ViT-B/16": clip_spec("ViT-B-16/openai"),
        "CLIP ViT-L/14": clip_spec("ViT-L-14/openai"),
        "DINO-like ViT-S/16": specs.DINO_S16,
        "DINO-like ViT-S/8": specs.DINO_S8,
        "DINOv2 ViT-S/14": specs.DINOV2_S14,
        "DINOv2 ViT-B/14": specs.DINOV2_B14,
        "DINOv3 ViT-B/16": specs.DINOV3_B16,
        "SigLIP2 ViT-B/16": specs.SIGLIP2_B16,
        "DreamSim (ensemble)": specs.DREAMSIM,
    }
