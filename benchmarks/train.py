"""What a training step costs, beside its floor, ComfyUI's Train LoRA, and PEFT's LoRA in diffusers' UNet.

    $(make -s python) benchmarks/train.py [--model narrow mid sd15] [--precision fp32 bf16] [--device cpu]
                                          [--lines NAME ...]

The models are ComfyUI's SD1.5 UNet in its full size (860 M) and with 128 base channels (mid, 138 M), random weights, on
the CPU or with --device cuda on a GPU; batch 1, 32 x 32 latents, 77 tokens, rank 8, AdamW. "attention": to_q, to_k,
to_v and to_out.0, 128 layers. Each measurement is a process of its own: the median seconds of its steps, and the MiB
that they add to the loaded model at their peak (Linux; of the GPU's memory there). The floor is a forward and the
gradient of its input, with weights that take none, and with the attention that training uses (PyTorch's); floor_chunked
has ComfyUI's own on a CPU. With bf16 the base is stored in it. --dynamic-vram: our sides with ComfyUI's dynamic VRAM.

deft_over_*     DEFT on attention / floor, floor_chunked, LoRA by us, Train LoRA on attention in weight and bypass mode,
                Train LoRA as it comes (all layers, weight mode, gradient checkpointing), PEFT's LoRA, PEFT's DEFT
all_over_core   DEFT on all linear and convolution layers with gradient checkpointing / Train LoRA as it comes
floor_over_*    floor / the peers: what no training of an adapter on this network can undercut
memory_over_*   the same for the memory; over_floor: / that of the floor and of the adapter (values, gradients, moments)

narrow is the same UNet with 32 base channels, 8 x 8 latents and 8 tokens: next to no arithmetic, so that what is left
is the work of the host. Its seconds are the process' CPU time, its peers' optimizers go over lists of tensors, and in
place of the memory it has

operations_*    what a step asks PyTorch for, but for views and empty tensors: what a GPU would be launched for, so that
                convolutions are none of our products, which are for CPUs. It is the same on every machine
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from apply import finish, prepare  # noqa: E402
from bases import MEASURED_BASES  # noqa: E402
from frame import alternate, counting_mode, in_use, new_peak, peak, report  # noqa: E402

NARROW = "narrow"  # measured by the CPU time of the process
_MODELS = (NARROW, "mid", "sd15")
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp8": "float8_e4m3fn"}  # of the base
STORED = {"fp8": "bf16"}  # what is computed in another dtype than it is stored in
MEASURED_RANK = 8
OPERATIONS, COMPUTING = "operations", "computing"  # what is looked at in steps, beside their time
MIB = 1 << 20
# Line -> our side and the peer's.
_LINES = {
    "deft_over_floor": ("deft", "floor"),
    "deft_over_floor_chunked": ("deft", "floor_chunked"),
    "deft_over_lora": ("deft", "lora"),
    "lora_over_floor": ("lora", "floor"),
    "lora_over_peft_lora": ("lora", "peft_lora"),
    "deft_over_peft_lora": ("deft", "peft_lora"),
    "deft_over_peft_deft": ("deft", "peft_deft"),
    "deft_over_core_bypass": ("deft", "core_bypass"),
    "deft_over_core_weight": ("deft", "core_weight"),
    "deft_over_core": ("deft", "core"),
    "all_over_core": ("deft_all", "core"),
    "floor_over_peft_lora": ("floor", "peft_lora"),
    "floor_over_core_bypass": ("floor", "core_bypass"),
    "floor_over_core_weight": ("floor", "core_weight"),
}
OF_NARROW = ("deft_over_floor", "lora_over_floor", "deft_over_peft_deft", "lora_over_peft_lora")
SLOW = ("core",)  # half a minute a step on a CPU: fewer of them
_OURS = ("deft", "lora", "deft_all")


class StepMeter:
    """Starts when the model is there; then takes the end of each step, and the operations up to then.

    cpu_time: of the process, in place of the time on the clock.
    """

    def __init__(self, network: Any, cpu_time: bool = False) -> None:
        self.device = device_of()
        self.clock = time.process_time if cpu_time else time.perf_counter
        self.counted = counting_mode()
        self.counts: list[int] = []
        self.profile: Any = None
        new_peak(self.device)
        self.start = in_use(self.device)
        if self.device.type != "cpu":  # the model may be there or not yet
            size = sum(value.numel() * value.element_size() for value in network.parameters())
            self.start = max(self.start, size / MIB)
        self.ends = [self.clock()]

    def step(self, *ignored: Any, **named: Any) -> None:
        """Note that a step has ended."""
        finish(self.device)
        self.ends.append(self.clock())
        self.counts.append(self.counted.operations)
        if self.profile is not None:
            self.profile.step()

    def watching(self, what: str, steps: int) -> Any:
        """A context in which steps are looked at: the "operations" are counted, or "computing" is timed, or nothing.

        Either makes steps slower. steps: those that are to be looked at; there is one before them.
        """
        if what == COMPUTING:
            return self.profiling(steps)
        return self.counting() if what == OPERATIONS else contextlib.nullcontext()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """A context in which operations are counted, with convolutions as convolutions, as a GPU has them."""
        from deft_pack.deft_ops import convolution

        suits = convolution.suits
        try:
            convolution.suits = lambda *args: False
            with self.counted:
                yield
        finally:
            convolution.suits = suits

    def profiling(self, steps: int) -> Any:
        """A context in which PyTorch notes when the device computes, of all steps but the first."""
        from torch.profiler import ProfilerActivity, profile, schedule

        activity = getattr(ProfilerActivity, self.device.type.upper())
        plan = schedule(wait=0, warmup=1, active=steps, repeat=1)
        self.profile = profile(activities=[activity], schedule=plan, acc_events=True)
        return self.profile

    def computing(self) -> float:
        """Seconds a step in which the device has computed; on a CPU, in which PyTorch's operations have."""
        name = "CPU" if self.device.type == "cpu" else self.device.type.upper()
        events = [
            (event.time_range.start, event.time_range.end)
            for event in self.profile.events()
            if event.device_type.name == name and not event.is_user_annotation
        ]
        return covered(events) / 1e6 / (len(self.counts) - 1)

    def result(self, adapter: int = 0) -> dict[str, float]:
        """Seconds of a step but the first, which pays what happens once; MiB; bytes of the adapter's training."""
        seconds = [later - earlier for earlier, later in zip(self.ends[1:], self.ends[2:], strict=False)]
        added = peak(self.device) - self.start
        counts = [later - earlier for earlier, later in zip(self.counts, self.counts[1:], strict=False)]
        return {
            "step": statistics.median(seconds),
            "memory": added,
            "peak": self.start + added,
            "adapter": 16 * adapter / MIB,
            OPERATIONS: statistics.median(counts),
            COMPUTING: self.computing() if self.profile is not None else 0.0,
        }


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of what the spans (start, end) cover, each moment once."""
    length, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def device_of() -> Any:
    """The device on which ComfyUI computes."""
    import comfy.model_management

    return comfy.model_management.get_torch_device()


KEPT_BASE: dict[tuple[str, str], Any] | None = None  # the last base, for a process that measures several sides


def model_of(kind: str, precision: str) -> Any:
    """The base as nodes get it."""
    if KEPT_BASE is None:
        return MEASURED_BASES[kind].make(_DTYPES[precision])
    if (kind, precision) not in KEPT_BASE:
        KEPT_BASE.clear()
        KEPT_BASE[kind, precision] = MEASURED_BASES[kind].make(_DTYPES[precision])
    return KEPT_BASE[kind, precision]


@contextlib.contextmanager
def ordinary_weights(network: Any) -> Iterator[None]:
    """Weights that were made in inference mode, as nodes' are, as such that autograd takes. They share the memory."""
    import torch

    def ordinary(value: Any) -> Any:
        made = torch.empty(0, dtype=value.dtype, device=value.device)
        return made.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())

    stores = [store for module in network.modules() for store in (module._parameters, module._buffers)]
    before = [(store, name, value) for store in stores for name, value in store.items()]
    try:
        for store, name, value in before:
            if value is not None and value.is_inference():
                parameter = isinstance(value, torch.nn.Parameter)
                made = ordinary(value)
                store[name] = torch.nn.Parameter(made, requires_grad=False) if parameter else made
        yield
    finally:
        for store, name, value in before:
            store[name] = value


def floor(kind: str, precision: str, steps: int, watch: str, chunked: bool) -> dict[str, float]:
    """Measure the least that a step can cost: forward, and the gradient of the input.

    A network that autograd cannot go through as it is gets what Train Adapter gives it.
    """
    import torch

    from deft_pack.trainers.step.attention import pytorch_attention
    from deft_pack.trainers.step.inference_only import without_inference_features
    from deft_pack.trainers.step.repairs import Repairs

    device, base, model = device_of(), MEASURED_BASES[kind], model_of(kind, precision)
    network = model.model.diffusion_model.requires_grad_(False).to(device)
    dtype = getattr(torch, _DTYPES[STORED.get(precision, precision)])
    time_step, text = torch.tensor([500.0], device=device), base.context().to(device, dtype)
    inputs, repairs = base.inputs(device, dtype), Repairs(kind)

    def step() -> bool:
        """Take a step; returns whether it could be taken."""
        x = base.latents().to(device, dtype).requires_grad_()
        try:
            with repairs.active():
                with repairs.network.watching():
                    output = network(x, time_step, context=text, **inputs)
                output.float().square().mean().backward()
        except RuntimeError as error:
            if not repairs.learn(error):
                raise
            return False
        return not repairs.learnt()

    meter = StepMeter(network, kind == NARROW)
    attention = contextlib.nullcontext() if chunked else pytorch_attention()
    with ordinary_weights(network), attention, without_inference_features(model), meter.watching(watch, steps):
        for _ in range(steps + 1):
            while not step():
                pass
            meter.step()
    return meter.result()


def training_of(
    kind: str, precision: str, steps: int, method: str, layers: str, checkpointing: bool
) -> tuple[Any, Callable[[Callable], Any]]:
    """The base, and Train Adapter on it: takes what is called after each step, and returns the result."""
    import torch

    from deft_pack.trainers.data.material import Material
    from deft_pack.trainers.run.loop import train
    from deft_pack.trainers.settings.settings import Settings

    settings = Settings(
        method,
        MEASURED_RANK,
        steps,
        1e-4,
        layers=layers,
        pattern="",
        precision=STORED.get(precision, precision),
        gradient_checkpointing=checkpointing,
    )
    with torch.inference_mode():
        model = model_of(kind, precision)
        material = Material([{"samples": MEASURED_BASES[kind].latents()}], [MEASURED_BASES[kind].conditioning()])

    def run(on_step: Callable) -> Any:
        with torch.inference_mode():
            return train(model, material, settings, on_step)

    return model, run


def ours(
    kind: str, precision: str, steps: int, watch: str, method: str, layers: str, checkpointing: bool
) -> dict[str, float]:
    """Measure Train Adapter."""
    model, run = training_of(kind, precision, steps + 1, method, layers, checkpointing)
    meter = StepMeter(model.model, kind == NARROW)
    with meter.watching(watch, steps):
        result = run(meter.step)
    return meter.result(sum(value.numel() for value in result.adapter.values()))


def core(
    kind: str, precision: str, steps: int, watch: str, only_attention: bool, bypass: bool, checkpointing: bool
) -> dict[str, float]:
    """ComfyUI's Train LoRA. Its copy of the model comes from the function that loaders leave with a model."""
    import comfy_extras.nodes_train as core_train
    import torch

    def limited(setup: Callable) -> Callable:
        def run(mp: Any, *args: Any) -> Any:
            every = [
                (name, module)
                for name, module in mp.model.named_modules()
                if name.endswith(MEASURED_BASES[kind].endings)
            ]
            mp.model.named_modules = lambda: iter(every)
            try:
                return setup(mp, *args)
            finally:
                del mp.model.named_modules

        return run

    setups = {name: getattr(core_train, name) for name in ("_setup_lora_adapters", "_setup_lora_adapters_bypass")}
    for name, setup in setups.items():
        setattr(core_train, name, limited(setup) if only_attention else setup)
    model = model_of(kind, precision)
    model.cached_patcher_init = (lambda disable_dynamic=False: MEASURED_BASES[kind].make(_DTYPES[precision]), ())
    meter = StepMeter(model.model, kind == NARROW)
    optimizer_step = torch.optim.AdamW.step

    def step(*args: Any, **named: Any) -> Any:
        result = optimizer_step(*args, **named)
        meter.step()
        return result

    torch.optim.AdamW.step = step
    values: dict[str, Any] = {
        "model": model,
        "latents": {"samples": MEASURED_BASES[kind].latents()},
        "positive": MEASURED_BASES[kind].conditioning(),
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": steps + 1,
        "learning_rate": 1e-4,
        "rank": MEASURED_RANK,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": STORED.get(precision, precision),
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": checkpointing,
        "checkpoint_depth": 1,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": bypass,
    }
    try:
        with torch.inference_mode(), meter.watching(watch, steps):
            core_train.TrainLoraNode.execute(**{name: [value] for name, value in values.items()})
    finally:
        torch.optim.AdamW.step = optimizer_step
        for name, setup in setups.items():
            setattr(core_train, name, setup)
    return meter.result()


def peft_side(kind: str, precision: str, steps: int, watch: str, method: str) -> dict[str, float]:
    """PEFT in diffusers' network of the same sizes: mean squared error on the noise, AdamW, clipped gradients."""
    import peft
    import torch

    base, dtype = MEASURED_BASES[kind], getattr(torch, _DTYPES[precision])
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with device_of():
            network, call = base.diffusers()
    finally:
        torch.set_default_dtype(usual)
    network = network.to(dtype)
    device, text = device_of(), base.context().to(device_of(), dtype)
    time_step = torch.tensor([500], device=device)
    meter = StepMeter(network, kind == NARROW)
    targets = list(base.targets)
    lora_config = (
        peft.LoraConfig(r=MEASURED_RANK, target_modules=targets)
        if method == "lora"
        else peft.DeftConfig(r=MEASURED_RANK, decomposition_method="qr", target_modules=targets)
    )
    network = peft.get_peft_model(network, lora_config)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.0, foreach=True if kind == NARROW else None)
    with meter.watching(watch, steps):
        for _ in range(steps + 1):
            noise = torch.randn(1, *base.latent).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                output = call(network, (base.latents().to(device) + noise).to(dtype), time_step, text)
                loss = (output.float() - noise).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            meter.step()
    return meter.result(sum(parameter.numel() for parameter in parameters))


PAPER = "paper (to_q, to_k, to_v, to_out.0)"
SIDES: dict[str, Callable[[str, str, int, str], dict[str, float]]] = {
    "floor": partial(floor, chunked=False),
    "floor_chunked": partial(floor, chunked=True),
    "deft": partial(ours, method="deft", layers=PAPER, checkpointing=False),
    "lora": partial(ours, method="lora", layers=PAPER, checkpointing=False),
    "deft_all": partial(ours, method="deft", layers="all linear and convolution", checkpointing=True),
    "core": partial(core, only_attention=False, bypass=False, checkpointing=True),
    "core_weight": partial(core, only_attention=True, bypass=False, checkpointing=False),
    "core_bypass": partial(core, only_attention=True, bypass=True, checkpointing=False),
    "peft_lora": partial(peft_side, method="lora"),
    "peft_deft": partial(peft_side, method="deft"),
}


def child(
    side: str, kind: str, precision: str, steps: int, options: argparse.Namespace, watch: str = ""
) -> dict[str, float]:
    """Run one measurement in a process of its own. watch: as in StepMeter; its seconds mean nothing then."""
    command = [
        sys.executable,
        __file__,
        "--child",
        side,
        "--model",
        kind,
        "--precision",
        precision,
        "--steps",
        str(steps),
        "--device",
        options.device,
        *(["--watch", watch] if watch else []),
        *(["--dynamic-vram"] if options.dynamic_vram and side in _OURS else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def compare_line(line: str, kind: str, precision: str, options: argparse.Namespace) -> None:
    """Measure both sides in turns and print seconds and memory."""
    sides = _LINES[line]
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    slow = set(SLOW) & set(sides) if options.device == "cpu" else set()

    def step(side: str) -> float:
        seen[side].append(child(side, kind, precision, 2 if side in slow else options.steps, options))
        return seen[side][-1]["step"]

    runs = 1 if slow and kind == "sd15" else options.runs
    our, peer = alternate(lambda: step(sides[0]), lambda: step(sides[1]), runs, warm_up=0)
    place = "" if options.device == "cpu" else f"{options.device}{'.dynamic' if options.dynamic_vram else ''}."
    name = f"train.{place}{kind}.{precision}.{line}"
    report(name, our, peer, "CPU s" if kind == NARROW else "s", runs)
    if kind == NARROW:
        our, peer = (child(side, kind, precision, 3, options, OPERATIONS)[OPERATIONS] for side in sides)
        head, _, tail = line.partition("_over_")
        report(f"train.{place}{kind}.{precision}.operations_{head}_over_{tail}", our, peer, "operations", 1)
        return
    if options.dynamic_vram:
        return  # the weights are not in PyTorch's memory
    first, second = (statistics.median(figures["memory"] for figures in seen[side]) for side in sides)
    if line == "deft_over_floor":
        second += statistics.median(figures["adapter"] for figures in seen[sides[0]])
    head, _, tail = line.partition("_over_")
    name = f"train.{place}{kind}.{precision}.memory{'' if head == 'deft' else f'_{head}'}_over_{tail}"
    report(name, first, second, "MiB", runs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=_MODELS, default=["mid"])
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--lines", nargs="+", choices=_LINES, help="all, or those of the host's work for narrow")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dynamic-vram", action="store_true", help="our sides with ComfyUI's dynamic VRAM (cuda)")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--watch", choices=(OPERATIONS, COMPUTING), default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        prepare(options.device, options.dynamic_vram)
        print(json.dumps(SIDES[options.child](options.model[0], options.precision[0], options.steps, options.watch)))
        return
    for kind in options.model:
        for precision in options.precision:
            for line in options.lines or (OF_NARROW if kind == NARROW else _LINES):
                compare_line(line, kind, precision, options)


if __name__ == "__main__":
    main()
