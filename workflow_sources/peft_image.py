"""PEFT's image benchmark: its settings as the nodes have them, and its rows, for the line and the plan of a sweep.

From huggingface/peft, method_comparison/image-gen: default_training_params.json and experiments/*, of August 2026. What
ComfyUI or this pack does in another way is in docs/sweeps.md. Prompts and captions are those of the user's own copy of
PEFT's file (sweeps/ready/peft_benchmark.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .prompt import SETTINGS
from .tables import TableMethod, method

SIDE = 512
SAMPLING: Mapping[str, Any] = {"steps": 20, "cfg": 3.5, "sampler": "euler"}
# The layers of its target_modules. Its `to_out.0` is not the `to_out` of single blocks, which is linear2 here.
LAYERS, LEFT_OUT = "attention and feed-forward", r"single_blocks\.\d+\.linear2"
TRAINING: Mapping[str, Any] = {
    "steps": 750,
    "learning_rate": 1e-4,
    "batch_size": 2,
    "layers": LAYERS,
    "pattern": "",
    "seed": 0,
    "precision": "auto",
    "gradient_checkpointing": True,
}
# One rate for all of a method's values, noise levels uniform without a shift, as its training loop draws them.
TRAINING_SETTINGS: Mapping[str, Any] = SETTINGS | {
    "weight_decay": 1e-4,
    "max_grad_norm": 1.0,
    "timesteps": "uniform",
    "shift": 1.0,
    "p_rate": 1.0,
    "exclude": LEFT_OUT,
    "checkpoint_every": 250,
}


def _row(label: str, kind: str, rate: float = 1e-4, **options: Any) -> TableMethod:
    return TableMethod(label, method(kind, **options) | {"learning_rate": rate})


# SVDiff is not in the benchmark: its layers and steps, and the rates of svdiff-pytorch.
_SVDIFF = _row("SVDiff", "svdiff", 1e-3, norm_rate=1e-3, keep_decomposition=True)
# Its full fine-tuning (experiments/full-finetuning) has all layers, fewer steps, and another rate and decay. No
# checkpoints, which would be 47 GB each, and so none to resume from.
_DREAMBOOTH = TableMethod(
    "DreamBooth",
    method("dreambooth") | {"steps": 300, "learning_rate": 5e-5, "layers": "everything"},
    {"weight_decay": 1e-2, "exclude": "", "checkpoint_every": 0, "resume": False},
)
# All methods that are trained here; those of the benchmark have its ranks and rates. alpha 0 is a scale of 1, as its
# alpha = r.
ROWS = (
    _row("DEFT r32", "deft", rank=32, alpha=0.0, projector="qr", start="identity"),
    _row("PaRa r32", "para", rank=32, rank_cap=0.0),
    _row("LoRA r32", "lora", rank=32, alpha=0.0),
    _row("LoRA r64", "lora", rank=64, alpha=0.0),
    _row("DoRA r64", "dora", rank=64, alpha=0.0),
    _row("LoKr r32", "lokr", 1e-3, rank=32, alpha=0.0, factor=-1),
    _row("OFT", "oft", block_size=32, constraint=0.0),
    _SVDIFF,
    _DREAMBOOTH,
)
