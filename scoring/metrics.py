"""What is measured: the metrics by name, and pure functions of L2-normalised features, one value a picture or pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Metric:
    """better: which direction is the good one, for the bold print of a table."""

    name: str
    better: Literal["higher", "lower"]
    about: str


METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("CLIP-I", "higher", "likeness to the subject's pictures, by CLIP's image encoder"),
    Metric("CLIP-T", "higher", "likeness to the prompt, by CLIP's two encoders"),
    Metric("DINO", "higher", "likeness to the subject's pictures, by DINO's class token"),
    Metric("DINOv2", "higher", "likeness to the subject's pictures, by DINOv2's class token"),
    Metric("drift", "lower", "how far pictures of unrelated prompts move from the base model's"),
    Metric("PRES", "lower", "likeness of other members of the class to the subject (DreamBooth's prior preservation)"),
    Metric("DIV", "higher", "mean LPIPS between pictures of one prompt (DreamBooth's diversity)"),
    Metric("diversity", "higher", "mean distance of features between pictures of one prompt"),
)}


def better(metric: str) -> Literal["higher", "lower"]:
    """The good direction of a metric; of a custom one, higher."""
    return METRICS[metric].better if metric in METRICS else "higher"


def order(metric: str) -> tuple[int, str]:
    """Sort key: in the order of METRICS, custom ones last."""
    return (list(METRICS).index(metric) if metric in METRICS else len(METRICS)), metric


def all_pairs(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Mean cosine of each image to every reference: [n, d], [m, d] -> [n].

    Its mean is the "average pairwise cosine similarity" of DreamBooth (arXiv 2208.12242, section 4.1).
    """
    return images @ references.mean(dim=0)  # the mean of the cosines, without the n x m matrix


def check_matched(images: int, references: int) -> None:
    """Raises ValueError where picture i has no reference i; one reference serves all."""
    if references not in (1, images):
        raise ValueError(f"this protocol compares image i with reference i, but there are {images} images and "
                         f"{references} references; give as many references as images, or one.")


def matched_pairs(images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Cosine of each image to the reference of the same place: [n, d], [n or 1, d] -> [n] (DreamBench++)."""
    check_matched(len(images), len(references))
    return (images * references).sum(dim=1)


def text_pairs(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosine of each image to its text (CLIP-T): [n, d], [n or 1, d] -> [n]. Raises ValueError on other counts."""
    if len(texts) not in (1, len(images)):
        raise ValueError(f"there are {len(texts)} texts for {len(images)} images; give one text for all, or one a line "
                         "for each image.")
    return (images * texts).sum(dim=1)


def check_drift(images: int, base: int) -> None:
    """Raises ValueError where picture i has no picture i of the base model's."""
    if images != base:
        raise ValueError(f"drift compares picture i with the base model's picture i, but there are {images} and {base};"
                         " sample both with the same prompts and seeds.")


def drift(images: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """(1 - cosine) / 2 of each picture to the base model's of the same prompt and seed: [n, d], [n, d] -> [n], 0 to 1.

    PEFT's image generation benchmark (method_comparison/image-gen/run.py, `measure_drift`).
    """
    check_drift(len(images), len(base))
    return (1 - (images * base).sum(dim=1)) / 2


def distances_within(features: torch.Tensor) -> torch.Tensor:
    """1 - cosine of every pair of pictures: [n, d] -> [n (n - 1) / 2]."""
    import torch  # tables need this module, and no tensors

    rows, columns = torch.triu_indices(len(features), len(features), 1)
    return 1 - (features @ features.T)[rows, columns]
