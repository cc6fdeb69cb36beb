"""Settings as published, one preset a row of the papers' tables. A new one is one entry here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .settings import Settings
from .targets import EVERYTHING
from .textual_inversion import TEXTUAL_INVERSION

NONE = "none"
_PAPER_LAYERS = "paper (to_q, to_k, to_v, to_out.0)"
_DEFT = "DEFT repository, dreambench_plus"
_SDXL: dict[str, Any] = {"learning_rate": 5e-5, "steps": 500, "batch_size": 1, "layers": _PAPER_LAYERS, "pattern": ""}
_QR: dict[str, Any] = {"projector": "qr", "identity": False}


@dataclass(frozen=True)
class Preset:
    """A published choice of settings: its method, its source, and the settings that it has, the method's own among
    them; others stay.
    """

    method: str
    source: str
    values: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "DEFT r8 (SDXL)": Preset(
        "deft", f"{_DEFT}: P P^T from random matrices", _SDXL | {"rank": 8, "projector": "ppt", "identity": False}
    ),
    "DEFT r8 with QR (SDXL)": Preset("deft", f"{_DEFT}: deftQR", _SDXL | _QR | {"rank": 8}),
    "DEFT r4 (SDXL)": Preset("deft", f"{_DEFT}: --rank=4 --ortho=True", _SDXL | _QR | {"rank": 4}),
    "PaRa r4 (SDXL)": Preset("para", f"{_DEFT}: --Rgate=0 --ortho=True", _SDXL | {"rank": 4}),
    "PaRa r8 (SDXL)": Preset("para", f"{_DEFT}, with rank 8", _SDXL | {"rank": 8}),
    "LoRA r4 (SDXL)": Preset("lora", "diffusers' DreamBooth LoRA script for SDXL", _SDXL | {"rank": 4, "alpha": None}),
    "LoRA r8 (SDXL)": Preset("lora", "the same with rank 8", _SDXL | {"rank": 8, "alpha": None}),
    "SVDiff (SD 1.5)": Preset(
        "svdiff",
        "svdiff-pytorch: 1e-3, norms 1e-6, prior loss 1; it gives 500 to 1000 steps",
        {
            "learning_rate": 1e-3,
            "norm_rate": 1e-3,
            "steps": 1000,
            "batch_size": 1,
            "layers": EVERYTHING,
            "pattern": "",
            "weight_decay": 1e-2,
            "prior_weight": 1.0,
        },
    ),
    "DreamBooth (SD 1.5)": Preset(
        "dreambooth",
        "DreamBench++: 2.5e-6, 250 steps, no prior pictures; decay as in diffusers' script",
        {
            "learning_rate": 2.5e-6,
            "steps": 250,
            "batch_size": 1,
            "layers": EVERYTHING,
            "pattern": "",
            "weight_decay": 1e-2,
        },
    ),
    "Textual Inversion (SD 1.5)": Preset(
        TEXTUAL_INVERSION,
        "DreamBench++: 5e-4 times 2 (--scale_lr on two GPUs), 3000 steps",
        {"learning_rate": 1e-3, "steps": 3000, "batch_size": 1, "weight_decay": 1e-2},
    ),
    "DEFT (OmniGen)": Preset(
        "deft",
        "DEFT repository, finetune.py: P with a tenth of the rate; qr from random matrices",
        {
            "rank": 8,
            "learning_rate": 1e-3,
            "p_rate": 0.1,
            "beta1": 0.9,
            "beta2": 0.99,
            "weight_decay": 0.0,
            "batch_size": 1,
            "layers": "attention",
            "max_grad_norm": 1.0,
            "caption_dropout": 0.01,
            **_QR,
        },
    ),
    "PaRa (its paper, SDXL)": Preset(
        "para",
        "PaRa's authors (arXiv 2406.05641): without cross-attention, ranks up to out / 40",
        {
            "rank": 4,
            "rank_cap": 40.0,
            "learning_rate": 1e-4,
            "steps": 1000,
            "batch_size": 1,
            "pattern": "",
            "layers": "attention without cross-attention",
        },
    ),
    "DEFT (PEFT's example, SD 2.1)": Preset(
        "deft",
        "PEFT, examples/deft_dreambooth: to_q and to_v, alpha 16, from the identity",
        {
            "rank": 8,
            "alpha": 16.0,
            "learning_rate": 1e-4,
            "steps": 800,
            "batch_size": 1,
            "layers": _PAPER_LAYERS,
            "pattern": r"\.to_[qv]$",
            "weight_decay": 1e-2,
            "projector": "qr",
            "identity": True,
        },
    ),
}


def with_preset(settings: Settings, name: str) -> Settings:
    """The settings with what the preset has in place of theirs.

    Raises:
        ValueError: an unknown preset, or one of another method.
    """
    if name == NONE:
        return settings
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}: choose one of {', '.join([NONE, *PRESETS])}.")
    preset = PRESETS[name]
    if preset.method != settings.method:
        raise ValueError(f"The preset {name!r} is for the method {preset.method}, not {settings.method}.")
    return settings.changed(**preset.values)
