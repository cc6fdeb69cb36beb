"""PEFT's image generation benchmark: the methods of it that this pack trains."""

from __future__ import annotations

from ..scores import Cost
from .base import PublishedTable, RowKey


def _costs(seconds: float, values: int, size: int, peak: float) -> Cost:
    """What a training took. size: bytes of the file. peak: 10^9 bytes that PyTorch had reserved."""
    return Cost("", seconds, values, size, peak_bytes=peak * 1e9, memory="GPU")


_COSTS: dict[RowKey, Cost] = {
    ("DEFT", 32, ""): _costs(1037, 38_338_560, 153_375_936, 11.843),
    ("PaRa", 32, ""): _costs(828, 28_508_160, 114_043_472, 11.033),
    ("LoRA", 32, ""): _costs(759, 38_338_560, 153_377_056, 10.708),
    ("LoRA", 64, ""): _costs(717, 76_677_120, 306_731_408, 11.383),
    ("DoRA", 64, ""): _costs(1436, 77_568_000, 310_306_792, 13.176),
    ("LoHa", 32, ""): _costs(2281, 76_677_120, 306_753_024, 12.692),
    ("LoKr", 32, ""): _costs(2095, 783_360, 3_160_032, 10.846),
    ("OFT", None, ""): _costs(524, 4_761_600, 19_057_488, 9.670),
    ("IA3", None, ""): _costs(481, 307_200, 1_239_104, 9.586),
}
PEFT_IMAGE = PublishedTable(
    name="PEFT, image generation",
    source="PEFT (huggingface/peft, method_comparison/image-gen/results, as of August 2026): FLUX.2 klein base 4B, one "
    "subject (a cat plush), 750 steps, one seed; cosine of DINOv2-base to the held-out photo, 4 prompts x 3 pictures, "
    "and drift over 10 prompts",
    protocol="peft",
    scale=1.0,
    metrics=("DINOv2", "drift"),
    values={
        ("DEFT", 32, ""): {"DINOv2": 0.7088, "drift": 0.2768},
        ("PaRa", 32, ""): {"DINOv2": 0.6892, "drift": 0.2870},
        ("LoRA", 32, ""): {"DINOv2": 0.6972, "drift": 0.2620},
        ("LoRA", 64, ""): {"DINOv2": 0.7431, "drift": 0.2877},
        ("DoRA", 64, ""): {"DINOv2": 0.6680, "drift": 0.2745},
        ("LoHa", 32, ""): {"DINOv2": 0.6618, "drift": 0.2603},
        ("LoKr", 32, ""): {"DINOv2": 0.6974, "drift": 0.2680},
        ("OFT", None, ""): {"DINOv2": 0.7078, "drift": 0.2619},
        ("IA3", None, ""): {"DINOv2": 0.6477, "drift": 0.2295},
    },
    oddities=(
        "Each number is of one training with one seed and 12 pictures; no interval can be given for it.",
        "The runs are of June to August 2026, and of several versions of PEFT.",
        "LoKr and IA3 have a learning rate of 1e-3, the others of 1e-4; OFT has blocks of 32.",
        "DEFT and PaRa decompose by QR.",
        "The times are of an NVIDIA L40S, with 32 pictures at the end. The peak is the memory that PyTorch had "
        "reserved; what is measured here is what it had allocated, which is less.",
        "Its text encoder gives layers 10, 20 and 30, where diffusers and ComfyUI take 9, 18 and 27 for this model.",
    ),
    costs=_COSTS,
)
