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
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from apply import CONFIGS, finish, prepare, unet  # noqa: E402
from frame import alternate, memory, report  # noqa: E402

NARROW = "narrow"  # measured by the CPU time of the process
MODELS = {NARROW: NARROW, "mid": "mid", "sd15": "sd15"}
SIDES_OF = {NARROW: 8}  # of latents; 32 of the others
TOKENS_OF = {NARROW: 8}  # of texts; 77 of the others
RANK = 8
ENDINGS = ("to_q", "to_k", "to_v", "to_out.0")
MIB = 1 << 20
# Line -> our side and the peer's.
LINES = {
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
OURS = ("deft", "lora", "deft_all")


def launched(func: Any) -> bool:
    """Whether an operation computes something: views of a tensor, and tensors without values, cost a GPU nothing."""
    name = func._schema.name.removeprefix("aten::")
    views = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
    return not views and not name.startswith(("empty", "new_empty", "detach", "_local_scalar_dense", "is_", "sym_"))


class Meter:
    """Starts when the model is there; then takes the end of each step, and the operations up to then.

    cpu_time: of the process, in place of the time on the clock.
    """

    def __init__(self, network: Any, cpu_time: bool = False) -> None:
        self.device = device_of()
        self.clock = time.process_time if cpu_time else time.perf_counter
        self.operations = 0
        self.counts: list[int] = []
        gc.collect()
        if self.device.type == "cuda":  # the model may be there or not yet
            self.start = sum(value.numel() * value.element_size() for value in network.parameters()) / MIB
        else:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the training would reuse what the set-up has freed
            self.start = memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self.ends = [self.clock()]

    def step(self, *ignored: Any, **named: Any) -> None:
        """Note that a step has ended."""
        finish(self.device)
        self.ends.append(self.clock())
        self.counts.append(self.operations)

    def counting(self) -> Any:
        """A context in which operations are counted; it makes each of them slower."""
        from torch.utils._python_dispatch import TorchDispatchMode

        from deft_pack.deft_ops import convolution

        meter = self
        convolution.suits = lambda *args: False

        class Counting(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                meter.operations += launched(func)
                return func(*args, **(kwargs or {}))

        return Counting()

    def result(self, adapter: int = 0) -> dict[str, float]:
        """Seconds of a step but the first, which pays what happens once; MiB; bytes of the adapter's training."""
        import torch

        seconds = [later - earlier for earlier, later in zip(self.ends[1:], self.ends[2:], strict=False)]
        cuda = self.device.type == "cuda"
        added = (torch.cuda.max_memory_allocated(self.device) / MIB if cuda else memory("VmHWM")) - self.start
        counts = [later - earlier for earlier, later in zip(self.counts, self.counts[1:], strict=False)]
        return {
            "step": statistics.median(seconds),
            "memory": added,
            "adapter": 16 * adapter / MIB,
            "operations": statistics.median(counts),
        }


def counting(meter: Meter, count: bool) -> Any:
    """A context that counts operations, if it is to."""
    import contextlib

    return meter.counting() if count else contextlib.nullcontext()


def device_of() -> Any:
    """The device on which ComfyUI computes."""
    import comfy.model_management

    return comfy.model_management.get_torch_device()


def model_of(kind: str, precision: str) -> Any:
    """The UNet as nodes get it."""
    return unet(MODELS[kind], "bfloat16" if precision == "bf16" else "float32", every=True)


def context(kind: str) -> Any:
    """A text's context."""
    import torch

    return torch.randn(
        1, TOKENS_OF.get(kind, 77), CONFIGS[MODELS[kind]]["context_dim"], generator=torch.Generator().manual_seed(3)
    )


def latent(kind: str) -> Any:
    """One random latent."""
    import torch

    side = SIDES_OF.get(kind, 32)
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(4))


def floor(kind: str, precision: str, steps: int, count: bool, chunked: bool) -> dict[str, float]:
    """Measure the least that a step can cost: forward, and the gradient of the input."""
    import contextlib

    import torch

    from deft_pack.trainers.step.attention import pytorch_attention

    device = device_of()
    network = model_of(kind, precision).model.diffusion_model.requires_grad_(False).to(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    time_step, text = torch.tensor([500.0], device=device), context(kind).to(device, dtype)
    meter = Meter(network, kind == NARROW)
    with contextlib.nullcontext() if chunked else pytorch_attention(), counting(meter, count):
        for _ in range(steps + 1):
            x = latent(kind).to(device, dtype).requires_grad_()
            network(x, time_step, context=text).float().square().mean().backward()
            meter.step()
    return meter.result()


def ours(
    kind: str, precision: str, steps: int, count: bool, method: str, layers: str, checkpointing: bool
) -> dict[str, float]:
    """Measure Train Adapter."""
    import torch

    from deft_pack.trainers.data.material import Material
    from deft_pack.trainers.run.loop import train
    from deft_pack.trainers.settings.settings import Settings

    settings = Settings(
        method,
        RANK,
        steps + 1,
        1e-4,
        layers=layers,
        pattern="",
        precision=precision,
        gradient_checkpointing=checkpointing,
    )
    with torch.inference_mode():
        model = model_of(kind, precision)
        material = Material([{"samples": latent(kind)}], [[[context(kind), {}]]])
        meter = Meter(model.model, kind == NARROW)
        with counting(meter, count):
            result = train(model, material, settings, meter.step)
    return meter.result(sum(value.numel() for value in result.adapter.values()))


def core(
    kind: str, precision: str, steps: int, count: bool, only_attention: bool, bypass: bool, checkpointing: bool
) -> dict[str, float]:
    """ComfyUI's Train LoRA. Its copy of the model comes from the function that loaders leave with a model."""
    import comfy_extras.nodes_train as core_train
    import torch

    def limited(setup: Callable) -> Callable:
        def run(mp: Any, *args: Any) -> Any:
            every = [(name, module) for name, module in mp.model.named_modules() if name.endswith(ENDINGS)]
            mp.model.named_modules = lambda: iter(every)
            try:
                return setup(mp, *args)
            finally:
                del mp.model.named_modules

        return run

    if only_attention:
        for name in ("_setup_lora_adapters", "_setup_lora_adapters_bypass"):
            setattr(core_train, name, limited(getattr(core_train, name)))
    model = model_of(kind, precision)
    model.cached_patcher_init = (lambda disable_dynamic=False: model_of(kind, precision), ())
    meter = Meter(model.model, kind == NARROW)
    optimizer_step = torch.optim.AdamW.step

    def step(*args: Any, **named: Any) -> Any:
        result = optimizer_step(*args, **named)
        meter.step()
        return result

    torch.optim.AdamW.step = step
    values: dict[str, Any] = {
        "model": model,
        "latents": {"samples": latent(kind)},
        "positive": [[context(kind), {}]],
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": steps + 1,
        "learning_rate": 1e-4,
        "rank": RANK,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": precision,
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
    with torch.inference_mode(), counting(meter, count):
        core_train.TrainLoraNode.execute(**{name: [value] for name, value in values.items()})
    return meter.result()


def peft_side(kind: str, precision: str, steps: int, count: bool, method: str) -> dict[str, float]:
    """PEFT in diffusers' UNet of the same sizes: mean squared error on the noise, AdamW, clipped gradients."""
    import peft
    import torch
    from diffusers import UNet2DConditionModel

    config = CONFIGS[MODELS[kind]]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    channels = tuple(config["model_channels"] * factor for factor in config["channel_mult"])
    network = UNet2DConditionModel(
        sample_size=32, block_out_channels=channels, attention_head_dim=8, cross_attention_dim=config["context_dim"]
    ).to(device_of(), dtype)
    device, text = device_of(), context(kind).to(device_of(), dtype)
    time_step = torch.tensor([500], device=device)
    meter = Meter(network, kind == NARROW)
    targets = list(ENDINGS)
    lora_config = (
        peft.LoraConfig(r=RANK, target_modules=targets)
        if method == "lora"
        else peft.DeftConfig(r=RANK, decomposition_method="qr", target_modules=targets)
    )
    network = peft.get_peft_model(network, lora_config)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.0, foreach=True if kind == NARROW else None)
    with counting(meter, count):
        for _ in range(steps + 1):
            noise = torch.randn(latent(kind).shape).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                output = network((latent(kind).to(device) + noise).to(dtype), time_step, text).sample
                loss = (output.float() - noise).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            meter.step()
    return meter.result(sum(parameter.numel() for parameter in parameters))


PAPER = "paper (to_q, to_k, to_v, to_out.0)"
SIDES: dict[str, Callable[[str, str, int, bool], dict[str, float]]] = {
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
    side: str, kind: str, precision: str, steps: int, options: argparse.Namespace, count: bool = False
) -> dict[str, float]:
    """Run one measurement in a process of its own. count: operations are counted; its seconds mean nothing then."""
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
        *(["--count"] if count else []),
        *(["--dynamic-vram"] if options.dynamic_vram and side in OURS else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def compare_line(line: str, kind: str, precision: str, options: argparse.Namespace) -> None:
    """Measure both sides in turns and print seconds and memory."""
    sides = LINES[line]
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
        our, peer = (child(side, kind, precision, 3, options, count=True)["operations"] for side in sides)
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
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["mid"])
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--lines", nargs="+", choices=LINES, help="all, or those of the host's work for narrow")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dynamic-vram", action="store_true", help="our sides with ComfyUI's dynamic VRAM (cuda)")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        prepare(options.device, options.dynamic_vram)
        print(json.dumps(SIDES[options.child](options.model[0], options.precision[0], options.steps, options.count)))
        return
    for kind in options.model:
        for precision in options.precision:
            for line in options.lines or (OF_NARROW if kind == NARROW else LINES):
                compare_line(line, kind, precision, options)


if __name__ == "__main__":
    main()
