"""What a GPU gives: whether trainings are right on it, and what steps, patching and scoring cost. One run, one card.

    $(make -s python) benchmarks/gpu.py [--minutes 8] [--device gpu] [--small] [--lines NAME ...] > gpu.jsonl

or with the Python of a ComfyUI that has PyTorch for the card, and COMFYUI_DIR set to its folder.

Prints JSON lines, each as soon as it is there, the most important first, so that a run that is cut has said the most.
A line that fails has its `error`, one that the time is not enough for says so in `skipped`; the next ones go on. All
weights are random and made here; nothing is read but installed packages (PEFT, diffusers, open_clip, timm), and nothing
is written. What it runs on is ComfyUI's choice: CUDA; ROCm, XPU and MPS by torch.accelerator, which nobody has tried.

Most lines have `ours`, `peer`, `ratio` (ours / peer) and `unit`. Rank 8, batch 1, AdamW, to_q to to_out.0 ("attention"
in Flux), as in benchmarks/train.py, whose sides these are, and medians of some steps:

gpu.computing.BASE.PRECISION.SIDE    seconds of a step / those of it in which the device computes (PyTorch's profiler);
                                     peak: MiB of the device with the model
gpu.step.BASE.PRECISION.OURS_over_PEER    seconds of a step. floor: the base's forward and the gradient of its input;
                                     peft_*: PEFT in diffusers' network; core_bypass: ComfyUI's Train LoRA;
                                     _checkpointed: with gradient checkpointing
gpu.memory.BASE.PRECISION.OURS_over_PEER  MiB that the steps add to the loaded model
gpu.bits.METHOD                      the difference of two trainings of the same seed, and whether there is none;
                                     .checkpointing: both with it; .without_checkpointing: with it and without it
gpu.memory_spent                     a training in which the memory runs out: MiB in use after it / before it, and
                                     whether a training after it gives the bits of one before it
gpu.waits.METHOD                     how often a step makes the CPU wait for the GPU, and in which lines (CUDA)
gpu.patch.sdxl                       seconds of patching SDXL with DEFT / with ComfyUI's LoRA; .operations: launched
gpu.score.BACKBONE                   seconds a picture, ready pixels, in batches of what fits / one by one;
                                     .pictures: from pictures in memory

--small runs every line on networks as narrow and shallow as they can be, which shows that it works and nothing else;
with --device cpu that takes some seconds. There the process' memory stands for the device's, and PyTorch's operations
for the device's work.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import apply  # noqa: E402
import bases  # noqa: E402
import train  # noqa: E402
from frame import compare, counting_mode, in_use, report, seconds  # noqa: E402

APPLIED_METHODS = ("deft", "lora", "para", "svdiff", "lokr")
CHECKPOINTED = "deft_checkpointed"
_SIDES = train.SIDES | {
    CHECKPOINTED: partial(train.ours, method="deft", layers=train.PAPER, checkpointing=True),
    "lora_checkpointed": partial(train.ours, method="lora", layers=train.PAPER, checkpointing=True),
    "core_bypass_checkpointed": partial(train.core, only_attention=True, bypass=True, checkpointing=True),
}
STEPS, CHECKED_STEPS = 8, 3


@dataclass
class Session:
    """One run: its options, and what has been measured."""

    small: bool
    device: Any = None
    figures: dict[tuple[str, ...], dict[str, float]] = field(default_factory=dict)
    trained: dict[tuple[str, bool], list[dict[str, Any]]] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps that count; the first is not one of them."""
        return 1 if self.small else STEPS

    def side(self, kind: str, precision: str, side: str, watch: str = "") -> dict[str, float]:
        """The figures of a side, measured once."""
        key = kind, precision, side, watch
        if key not in self.figures:
            if side.startswith("core"):
                self.put_away()  # it loads a copy of the model
            self.figures[key] = _SIDES[side](kind, precision, 2 if watch and not self.small else self.steps, watch)
        return self.figures[key]

    def put_away(self) -> None:
        """Free the device."""
        import comfy.model_management
        import torch

        with torch.inference_mode():
            comfy.model_management.unload_all_models()
            for model in (train.KEPT_BASE or {}).values():
                model.model.to("cpu")  # the floor has moved it, and ComfyUI does not know
        gc.collect()
        comfy.model_management.soft_empty_cache()

    def adapters(self, method: str, checkpointing: bool, count: int) -> list[dict[str, Any]]:
        """The adapters of so many trainings that are the same."""
        made = self.trained.setdefault((method, checkpointing), [])
        while len(made) < count:
            steps = 2 if self.small else CHECKED_STEPS
            _, run = train.training_of("mid", "fp32", steps, method, train.PAPER, checkpointing)
            made.append(dict(run(lambda progress: None).adapter.items()))
        return made[:count]


def print_result(name: str, **values: Any) -> None:
    """Print a result that compares nothing, as a line of JSON."""
    print(json.dumps({"name": name, **values}), flush=True)


def about(session: Session, name: str) -> None:
    """What the benchmark runs on."""
    import comfy.model_management
    import comfyui_version
    import torch

    total = comfy.model_management.get_total_memory(session.device) / train.MIB
    print_result(
        name,
        device=comfy.model_management.get_torch_device_name(session.device),
        ours=round(total),
        unit="MiB",
        torch=torch.__version__,
        comfyui=comfyui_version.__version__,
        small=session.small,
        not_tried=["ROCm", "XPU", "MPS"],
    )


def computing(session: Session, name: str, kind: str, precision: str, side: str) -> None:
    """A step beside what the device computes in it."""
    whole = session.side(kind, precision, side)
    watched = session.side(kind, precision, side, train.COMPUTING)
    report(name, whole["step"], watched[train.COMPUTING], "s", session.steps, peak=round(whole["peak"]))


def step(session: Session, name: str, kind: str, precision: str, sides: tuple[str, str]) -> None:
    """A step of two sides, and the memory of both."""
    ours, peer = (session.side(kind, precision, side) for side in sides)
    report(name, ours["step"], peer["step"], "s", session.steps)
    report(name.replace("gpu.step", "gpu.memory"), ours["memory"], max(peer["memory"], 1e-3), "MiB", 1)


def difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float]:
    """The largest difference of two adapters' values, and the largest value of the first."""
    assert first.keys() == second.keys()
    keys = [key for key in first if not key.endswith("alpha")]
    differences = [float((first[key].double() - second[key].double()).abs().max()) for key in keys]
    return max(differences), max(float(first[key].abs().max()) for key in keys)


def bits(session: Session, name: str, method: str) -> None:
    """Trainings of the same seed, without and with gradient checkpointing."""
    kept = {checkpointing: session.adapters(method, checkpointing, 2) for checkpointing in (False, True)}
    for suffix, pair in (
        ("", kept[False]),
        (".checkpointing", kept[True]),
        (".without_checkpointing", [kept[False][0], kept[True][0]]),
    ):
        largest, value = difference(*pair)
        report(f"{name}{suffix}", largest, value, "largest value", 2, equal=largest == 0)


def memory_spent(session: Session, name: str) -> None:
    """A training whose memory runs out after its first step, and one after it."""
    import torch

    held: list[Any] = []
    own = getattr(torch, session.device.type)
    limit = own.set_per_process_memory_fraction if session.device.type in ("cuda", "xpu") else None

    def spend(progress: Any) -> None:
        if limit is not None:  # or Windows would go on in the machine's memory
            total = own.get_device_properties(session.device).total_memory
            limit(min(1.0, (own.memory_reserved(session.device) + (1 << 30)) / total), session.device)
            while True:
                held.append(torch.empty(1 << 28, dtype=torch.uint8, device=session.device))
        raise torch.OutOfMemoryError("out of memory: raised on purpose, for this device has no limit")

    (before,) = session.adapters("deft", False, 1)
    session.put_away()
    used, message = in_use(session.device), ""
    _, run = train.training_of("mid", "fp32", 2, "deft", train.PAPER, False)
    try:
        run(spend)
    except ValueError as error:
        message = str(error)
    finally:
        if limit is not None:
            limit(1.0, session.device)
    held.clear()
    session.put_away()
    left = in_use(session.device)
    session.trained.clear()
    (after,) = session.adapters("deft", False, 1)
    largest, _ = difference(before, after)
    report(name, left, max(used, 1e-3), "MiB", 1, equal=largest == 0, message=message)


def waiting(session: Session, name: str, method: str) -> None:
    """What makes the CPU wait for the GPU in a training's second step, as CUDA's debug mode sees it."""
    import torch

    cuda = session.device.type == "cuda"
    seen: list[warnings.WarningMessage] = []
    parts: list[int] = []

    def note(progress: Any) -> None:
        parts.append(len(seen))
        if cuda:
            torch.cuda.set_sync_debug_mode("warn" if len(parts) == 1 else "default")

    _, run = train.training_of("mid", "fp32", 2, method, train.PAPER, False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda *args, **named: seen.append(warnings.WarningMessage(*args, **named))
            run(note)
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
    of_second = [one for one in seen[parts[0] : parts[1]] if "synchronizing" in str(one.message)]
    places = Counter("/".join([*Path(one.filename).parts[-2:], str(one.lineno)]) for one in of_second)
    print_result(name, ours=len(of_second), unit="waits", looked_for=cuda, places=dict(places.most_common(20)))


def graph(session: Session, name: str) -> None:
    """Steps by a CUDA graph."""
    print_result(name, ours=None, unit="s", note="there is no graph yet: a step is launched operation by operation")


def patching(session: Session, name: str) -> None:
    """Patching SDXL's attention by DEFT and by ComfyUI's LoRA."""
    import torch

    session.put_away()
    base = apply.unet("tiny_xl" if session.small else "sdxl", "float16")
    ours, peer = (
        apply.patch_once(apply.patched(base, apply.adapter(base, method, train.MEASURED_RANK)))
        for method in ("deft", "lora")
    )
    compare(name, ours, peer, runs=2 if session.small else 7)
    counts = []
    for measure in (ours, peer):
        with torch.inference_mode(), counting_mode() as counted:
            measure()
        counts.append(counted.operations)
    report(f"{name}.operations", *counts, "operations", 1)


def backbone_of(kind: str, small: bool, device: Any) -> Any:
    """A scorer's backbone with random weights, as Load Scorer manages it."""
    import comfy.model_management
    import comfy.model_patcher

    from deft_pack.nodes.scorers import manage
    from deft_pack.scoring.backbones import KINDS, clip, dino
    from deft_pack.scoring.backbones.base import EncoderSettings, WeightFile
    from deft_pack.scoring.preprocessing import Preprocess
    from deft_pack.scoring.protocols import specs

    spec = {"clip": specs.CLIP_B32, "dino": specs.DINO_S8, "dinov2": specs.DINOV2_S14}[kind]
    settings: Any = spec.settings
    if small:
        tower = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 64}
        texts = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
        sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 0}
        architecture = {"embed_dim": 32, "vision_cfg": tower, "text_cfg": texts} if kind == "clip" else sizes
        settings = EncoderSettings(architecture, Preprocess(32, 32, (0.5,) * 3, (0.25,) * 3))
    state = (clip if kind == "clip" else dino).build(settings).state_dict()
    backbone = KINDS[spec.kind](spec, settings, state, Path(kind), WeightFile(kind, f"random {kind}"))
    patcher = comfy.model_patcher.ModelPatcher(backbone.module, device, comfy.model_management.unet_offload_device())
    manage(backbone, patcher, device)
    return backbone


def scoring(session: Session, name: str, kind: str) -> None:
    """A backbone in batches and picture by picture."""
    import numpy as np
    import torch
    from PIL import Image

    from deft_pack.scoring.embeddings import FeatureStore, embed_images

    session.put_away()
    backbone = backbone_of(kind, session.small, session.device)
    count, side = (8, 48) if session.small else (256, 512)
    numbers = np.random.default_rng(0)
    pictures = [Image.fromarray(numbers.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]
    pixels = torch.stack([backbone.preprocess(picture) for picture in pictures])
    features: dict[int, Any] = {}

    def forward(size: int) -> None:
        features[size] = torch.cat([backbone.encode_pixels(part) for part in pixels.split(size)])

    def whole(size: int) -> None:
        embed_images({kind: backbone}, pictures, store=FeatureStore(), batch=size)

    for suffix, work in (("", forward), (".pictures", whole)):
        batch = backbone.batch
        ours, peer = (seconds(partial(work, size)) for size in (batch, 1))
        line = partial(report, f"{name}{suffix}")
        line(*(value / count for value in apply_turns(ours, peer)), "s", 2, batch=backbone.batch)
    largest = float((features[max(features)] - features[1]).abs().max())
    report(f"{name}.difference", largest, 1.0, "largest value", 1)


def apply_turns(ours: Callable[[], float], peer: Callable[[], float]) -> tuple[float, float]:
    """Measure both sides in turns; the first round is not counted."""
    from frame import alternate

    return alternate(ours, peer, 2)


@dataclass(frozen=True)
class Line:
    """A line: its name, the seconds that it takes on a fast card at most, and what measures and prints it."""

    name: str
    seconds: float
    measure: Callable[[Session, str], None]


def of_step(taken: float, kind: str, precision: str, ours: str, peer: str) -> Line:
    """The line of a step of two sides."""
    name = f"gpu.step.{kind}.{precision}.{ours}_over_{peer}"
    return Line(name, taken, partial(step, kind=kind, precision=precision, sides=(ours, peer)))


def of_computing(taken: float, kind: str, precision: str, side: str) -> Line:
    """The line of a step beside the device's own time."""
    name = f"gpu.computing.{kind}.{precision}.{side}"
    return Line(name, taken, partial(computing, kind=kind, precision=precision, side=side))


# Train LoRA cannot train Flux without checkpointing: the network writes into what autograd has saved.
OF_FLUX = ("lora_checkpointed", "core_bypass_checkpointed")
LINES = [
    Line("gpu.device", 0, about),
    of_computing(20, "sd15", "bf16", "deft"),
    of_step(5, "sd15", "bf16", "deft", "floor"),
    of_step(15, "sd15", "bf16", "deft", "peft_deft"),
    Line("gpu.bits.deft", 20, partial(bits, method="deft")),
    Line("gpu.memory_spent", 10, memory_spent),
    *(Line(f"gpu.waits.{method}", 5, partial(waiting, method=method)) for method in ("deft", "lora")),
    Line("gpu.graph", 0, graph),
    of_computing(10, "sd15", "bf16", "lora"),
    of_step(10, "sd15", "bf16", "lora", "peft_lora"),
    of_step(15, "sd15", "bf16", "lora", "core_bypass"),
    of_computing(40, "sdxl", "bf16", "deft"),
    of_step(10, "sdxl", "bf16", "deft", "floor"),
    of_step(30, "sdxl", "bf16", "deft", "peft_deft"),
    Line("gpu.patch.sdxl", 20, patching),
    of_computing(20, "sdxl", "bf16", CHECKPOINTED),
    of_computing(60, "flux", "fp8", CHECKPOINTED),
    of_computing(20, "flux", "fp8", "deft"),
    of_step(15, "flux", "fp8", "deft", "floor"),
    of_step(40, "flux", "fp8", *OF_FLUX),
    *(Line(f"gpu.score.{kind}", 20, partial(scoring, kind=kind)) for kind in ("clip", "dino", "dinov2")),
    *(Line(f"gpu.bits.{method}", 25, partial(bits, method=method)) for method in APPLIED_METHODS[1:]),
    of_step(20, "sdxl", "bf16", "lora", "peft_lora"),
    of_step(30, "sdxl", "bf16", "lora", "core_bypass"),
    of_computing(60, "flux", "bf16", "deft"),
    of_step(15, "flux", "bf16", "deft", "floor"),
    of_step(50, "flux", "bf16", "deft", "peft_deft"),
    of_step(30, "flux", "bf16", "lora", "peft_lora"),
    of_step(60, "flux", "bf16", *OF_FLUX),
    of_computing(15, "sd15_64", "bf16", "deft"),
    of_step(5, "sd15_64", "bf16", "deft", "floor"),
    of_step(10, "sd15_64", "bf16", "deft", "peft_deft"),
    of_step(15, "sd15_64", "bf16", "lora", "peft_lora"),
]


def run(lines: list[Line], session: Session, left: Callable[[], float]) -> None:
    """Print the lines that the time is enough for."""
    for line in lines:
        needed = 1.0 if session.small else line.seconds
        if left() < needed:
            print_result(line.name, skipped=f"it takes up to {needed:.0f} s, and {max(0.0, left()):.0f} s are left")
            continue
        if session.small:
            gc.freeze()  # a collection would take longer than the line
        error, started = "", time.perf_counter()
        try:
            line.measure(session, line.name)
        except Exception as raised:  # whatever it is, the others are still to be measured
            error = f"{type(raised).__name__}: {str(raised).strip()[:500]}"
        if error:
            print_result(line.name, error=error)
            session.put_away()
        session.taken[line.name] = round(time.perf_counter() - started, 2)
    print_result("gpu.seconds", ours=session.taken, unit="s")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--lines", nargs="+", default=[""], metavar="NAME", help="those whose names begin so")
    options = parser.parse_args(arguments)
    apply.prepare(options.device)
    import torch

    session = Session(options.small, train.device_of())
    if session.device.type == "cpu" and options.device == "gpu":
        parser.error("ComfyUI computes on the CPU here: --device cpu --small shows that the script works")
    train.KEPT_BASE = {}
    if options.small:
        bases.MEASURED_BASES |= bases.SMALL
    torch.manual_seed(0)
    chosen = [line for line in LINES if line.name.startswith(tuple(options.lines))]
    run(chosen, session, lambda: 60 * options.minutes - (time.perf_counter() - started))


if __name__ == "__main__":
    main()
