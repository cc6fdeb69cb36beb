"""The cost of putting a DEFT adapter on a model, beside ComfyUI's LoRA and PEFT's DEFT of the same rank and layers.

    $(make -s python) benchmarks/apply.py [patch forward load memory] [--model sd15 sdxl] [--device cpu] [--runs 5]

The models are ComfyUI's own SD1.5 and SDXL UNets in their full size with random weights; the layers are all attention
linears (to_q, to_k, to_v, to_out.0: 128 and 560). The DEFT adapter has the projector qr, rank 8 unless --rank says
otherwise. On the CPU, or with --device cuda on a GPU (weights there before, memory of the GPU; without dynamic VRAM).

patch.<model>.<dtype>          seconds of ComfyUI's patch_model, ours / ComfyUI's LoRA
patch_over_pass.<model>.<dtype>  ours / one pass W + up down over the same weights, in place: the floor
patch_over_peft.<model>.<dtype>  ours / PEFT's merge of its DEFT on linears of the same shapes; PEFT works in place,
                               ComfyUI keeps the old weights, so the first touch of new memory is in ours only
patch_over_safe_peft.<model>.<dtype>  ours / the same merge with safe_merge, which makes new weights, too
patch_over_bare.<model>.<dtype>  ours / ComfyUI's patch_model with patches that do nothing: its copies of the weights
file_over_peft.<model>.<dtype> seconds from a file to merged weights, ours / PEFT's from_pretrained and merge
forward.<model>.<dtype>        seconds of a forward with the weights patched on the fly (low VRAM), ours / LoRA
load.<model>                   seconds from a native file to a patched clone, ours / ComfyUI's Load LoRA of a LoRA file
memory.<model>.<dtype>         peak MiB of a process that patches, ours / LoRA, each in a process of its own
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
from comfy_server import find_comfyui  # noqa: E402
from frame import compare, memory, report, seconds  # noqa: E402

_MODELS = ("sd15", "sdxl")
_DTYPES = ("float32", "float16")
# As ComfyUI's detection gives it for the two checkpoints.
COMMON: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": COMMON
    | {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "use_linear_in_transformer": False,
        "context_dim": 768,
        "adm_in_channels": None,
    },
    "sdxl": COMMON
    | {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "use_linear_in_transformer": True,
        "context_dim": 2048,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
_COUNTS = {"sd15": 128, "sdxl": 560}


def prepare(device: str = "cpu", dynamic: bool = False) -> None:
    """Make ComfyUI importable in this process, on "cpu" or "cuda", and the pack under the name deft_pack.

    dynamic: with ComfyUI's dynamic VRAM, as its main.py turns it on where there is CUDA.
    """
    sys.path.insert(0, str(find_comfyui()))
    from comfy.cli_args import args

    args.cpu = device == "cpu"
    if dynamic:
        import comfy_aimdo.control

        comfy_aimdo.control.init()  # before PyTorch is imported
    import utils.extra_config  # noqa: F401  (before nodes: comfy/utils.py would take its name)

    if dynamic:
        import comfy.memory_management
        import comfy.model_patcher

        if not comfy_aimdo.control.init_devices([(0, int(args.vram_headroom * 1024**3))]):
            raise RuntimeError("dynamic VRAM cannot be had on this machine")
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True

    spec = importlib.util.spec_from_file_location(
        "deft_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["deft_pack"] = module
    spec.loader.exec_module(module)
    from deft_pack.patches.weight_adapter import register

    register()


def attention(network: Any) -> dict[str, Any]:
    """The attention linears of a UNet by layer name as in native files."""
    endings = ("to_q", "to_k", "to_v", "to_out.0")
    return {f"diffusion_model.{name}": module for name, module in network.named_modules() if name.endswith(endings)}


def unet(kind: str, dtype: str, every: bool = False) -> Any:
    """A ModelPatcher of the full UNet for ComfyUI's device, its weights on the CPU. Only those of the attention are
    filled, unless `every` is set.
    """
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    class SD15(comfy.supported_models.SD15):
        unet_config: dict[str, Any] = {}

    class SDXL(comfy.supported_models.SDXL):
        unet_config: dict[str, Any] = {}

    cpu, device = torch.device("cpu"), comfy.model_management.get_torch_device()
    config: Any = (SDXL if "num_classes" in CONFIGS[kind] else SD15)(CONFIGS[kind])
    # fp16 is stored and computed with in fp32, as ComfyUI does on a CPU: there is no fast fp16 product there.
    cast = torch.float32 if dtype == "float16" and device == cpu else None
    config.set_inference_dtype(getattr(torch, dtype), cast)
    dynamic, comfy.memory_management.aimdo_enabled = comfy.memory_management.aimdo_enabled, False
    model = config.get_model({}, "", device=cpu)  # with dynamic VRAM there would be no weights before a file is loaded
    comfy.memory_management.aimdo_enabled = dynamic
    layers = attention(model.diffusion_model)
    assert len(layers) == _COUNTS.get(kind, len(layers))
    random_weights(model.parameters() if every else [layer.weight for layer in layers.values()])
    return comfy.model_patcher.CoreModelPatcher(model.eval(), device, cpu)


def random_weights(parameters: Iterable[Any]) -> None:
    """Fill the weights of a network with random numbers, which ComfyUI's device draws."""
    import comfy.model_management
    import torch

    device = comfy.model_management.get_torch_device()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in parameters:
        values = torch.randn(parameter.shape, generator=generator, device=device)
        parameter.data.copy_(values / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.01 * values + 1)


def adapter(model: Any, method: str, rank: int) -> dict[str, Any]:
    """Random attention layers of a method, by native file key."""
    import torch

    from deft_pack.deft_ops import methods

    generator = torch.Generator().manual_seed(1)
    module, training = methods.get(method), methods.training_of(method)
    settings = training.settings_of()
    tensors = {}
    for name, layer in attention(model.model.diffusion_model).items():
        shape = layer.weight.shape
        factors = training.factors(training.init(torch.zeros(shape), rank, settings, generator), settings)
        for suffix, tensor in module.to_tensors(factors).items():
            if suffix in ("deft_R", "lora_up.weight"):  # zero at the start
                tensor = torch.randn(tensor.shape, generator=generator) / 100
            tensors[f"{name}.{suffix}"] = tensor
    return tensors


def patched(base: Any, tensors: dict[str, Any]) -> Any:
    """A clone of the patcher with the adapter added, as ComfyUI's Load LoRA does it."""
    import comfy.lora

    model = base.clone()
    keys = {name: f"{name}.weight" for name in attention(base.model.diffusion_model)}
    patches = comfy.lora.load_lora(tensors, keys)
    assert len(patches) == len(keys)
    model.add_patches(patches, 0.5)
    return model


def patch_once(model: Any) -> Callable[[], float]:
    """Patch all weights where they are computed with, and undo it outside of the measurement."""
    import torch

    device = model.load_device
    model.model.to(device)

    def measure() -> float:
        with torch.inference_mode():
            finish(device)
            started = time.perf_counter()
            model.patch_model(device)
            finish(device)
            taken = time.perf_counter() - started
            model.unpatch_model(device)
        return taken

    return measure


def finish(device: Any) -> None:
    """Wait for what a GPU still does."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def one_pass(base: Any, rank: int) -> Callable[[], float]:
    """W + up down for all attention weights, in place, fp16 through one fp32 scratch: what no method can undercut."""
    import torch

    device = base.load_device
    weights = [layer.weight.data.to(device) for layer in attention(base.model.diffusion_model).values()]
    scratch = torch.empty(max(weight.numel() for weight in weights), device=device)
    generator = torch.Generator().manual_seed(2)
    pairs = {
        shape: (torch.zeros(shape[0], rank, device=device), torch.randn(rank, shape[1], generator=generator).to(device))
        for shape in {tuple(weight.shape) for weight in weights}
    }

    def work() -> None:
        finish(device)
        with torch.inference_mode():
            for weight in weights:
                up, down = pairs[tuple(weight.shape)]
                if weight.dtype == torch.float32:
                    weight.addmm_(up, down)
                else:
                    part = scratch[: weight.numel()].view(weight.shape)
                    weight.copy_(part.copy_(weight).addmm_(up, down))
        finish(device)

    return seconds(work)


def bare(base: Any) -> Any:
    """A clone with a patch of ComfyUI's that adds nothing on each of the layers."""
    import torch

    model = base.clone()
    nothing = ("diff", (torch.zeros(1),))
    model.add_patches({f"{name}.weight": nothing for name in attention(base.model.diffusion_model)}, 0.0)
    return model


def peft_side(base: Any, dtype: str, rank: int, folder: Path) -> list[Callable[[], float]]:
    """PEFT's DEFT (qr) on linears of the same shapes and values: its merge, its safe merge, from its file to merged.

    What undoes either is not counted.
    """
    import peft
    import torch

    network = torch.nn.Module()
    for index, layer in enumerate(attention(base.model.diffusion_model).values()):
        linear = torch.nn.Linear(
            *reversed(layer.weight.shape), bias=False, dtype=getattr(torch, dtype), device=base.load_device
        )
        linear.weight.data.copy_(layer.weight.data)
        network.add_module(f"layer{index}", linear)
    names = [name for name, _ in network.named_children()]
    config = peft.DeftConfig(r=rank, decomposition_method="qr", target_modules=names)
    tuned = peft.get_peft_model(network, config)
    tuned.save_pretrained(folder)
    tuned.unload()

    def from_file() -> float:
        with torch.no_grad():
            started = time.perf_counter()
            wrapped = peft.PeftModel.from_pretrained(network, folder)
            wrapped.merge_adapter()
            finish(base.load_device)
            taken = time.perf_counter() - started
            wrapped.unmerge_adapter()
            wrapped.unload()
        return taken

    def merge(safe: bool) -> float:
        with torch.no_grad():
            wrapped = peft.PeftModel.from_pretrained(network, folder)
            finish(base.load_device)
            started = time.perf_counter()
            wrapped.merge_adapter(safe_merge=safe)
            finish(base.load_device)
            taken = time.perf_counter() - started
            wrapped.unmerge_adapter()
            wrapped.unload()
        return taken

    return [lambda: merge(False), lambda: merge(True), from_file]


def measure_patching(kind: str, dtype: str, options: argparse.Namespace) -> None:
    """Measure and print the patch lines of one model in one dtype."""
    from safetensors.torch import save_file

    from deft_pack.deft_ops import files
    from deft_pack.patches.apply import apply

    base = unet(kind, dtype)
    ours, peer = (patch_once(patched(base, adapter(base, method, options.rank))) for method in ("deft", "lora"))
    compare(f"patch.{kind}.{dtype}", ours, peer, runs=options.runs)
    compare(f"patch_over_bare.{kind}.{dtype}", ours, patch_once(bare(base)), runs=options.runs)
    compare(f"patch_over_pass.{kind}.{dtype}", ours, one_pass(base, options.rank), runs=options.runs)
    with tempfile.TemporaryDirectory() as folder:
        merge, safe_merge, peft_from_file = peft_side(base, dtype, options.rank, Path(folder))
        compare(f"patch_over_peft.{kind}.{dtype}", ours, merge, runs=options.runs)
        compare(f"patch_over_safe_peft.{kind}.{dtype}", ours, safe_merge, runs=options.runs)
        path = Path(folder) / "native.safetensors"
        save_file(adapter(base, "deft", options.rank), path, {"format": "pt"})

        def from_file() -> float:
            started = time.perf_counter()
            model = apply(files.read(path), base)[0]
            return time.perf_counter() - started + patch_once(model)()

        compare(f"file_over_peft.{kind}.{dtype}", from_file, peft_from_file, runs=options.runs)


def measure_forward(kind: str, dtype: str, options: argparse.Namespace) -> None:
    """A forward of 32 x 32 latents with all weights left where they are and patched at each use."""
    import torch

    base = unet(kind, dtype, every=True)
    network = base.model.diffusion_model
    config = base.model.model_config.unet_config
    device = base.load_device
    inputs: dict[str, Any] = {
        "x": torch.randn(1, 4, 32, 32),
        "timesteps": torch.tensor([500.0]),
        "context": torch.randn(1, 77, config["context_dim"]),
    }
    inputs = {
        name: value.to(device, base.model.get_dtype() if dtype == "float16" and device.type == "cuda" else None)
        for name, value in inputs.items()
    }

    def run(model: Any) -> Callable[[], float]:
        def measure() -> float:
            with torch.inference_mode():
                model.load(device, lowvram_model_memory=1)
                finish(device)
                started = time.perf_counter()
                network(**inputs)
                finish(device)
                taken = time.perf_counter() - started
                model.detach()
            return taken

        return measure

    ours, peer = (run(patched(base, adapter(base, method, options.rank))) for method in ("deft", "lora"))
    compare(f"forward.{kind}.{dtype}", ours, peer, runs=options.runs)


def measure_loading(kind: str, options: argparse.Namespace) -> None:
    """Native DEFT file and LoRA file of the same rank, each to a clone that is ready to be patched."""
    import comfy.sd
    import comfy.utils
    from safetensors.torch import save_file

    from deft_pack.deft_ops import files
    from deft_pack.patches.apply import apply

    base = unet(kind, "float16")
    with tempfile.TemporaryDirectory() as folder:
        paths = {method: Path(folder) / f"{method}.safetensors" for method in ("deft", "lora")}
        for method, path in paths.items():
            save_file(adapter(base, method, options.rank), path, {"format": "pt"})

        def ours() -> object:
            return apply(files.read(paths["deft"]), base)[0]

        def peer() -> object:
            lora = comfy.utils.load_torch_file(str(paths["lora"]), safe_load=True)
            return comfy.sd.load_lora_for_models(base, None, lora, 1.0, 1.0)[0]

        compare(f"load.{kind}", seconds(ours), seconds(peer), runs=4 * options.runs)


def measure_memory(kind: str, dtype: str, options: argparse.Namespace) -> None:
    """Peak memory of a process that patches once."""
    peaks = []
    for method in ("deft", "lora"):
        command = [
            sys.executable,
            __file__,
            "--peak",
            method,
            "--model",
            kind,
            "--dtype",
            dtype,
            "--rank",
            str(options.rank),
            "--device",
            options.device,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    report(f"memory.{kind}.{dtype}", peaks[0], peaks[1], "MiB", 1)


def print_peak(kind: str, dtype: str, method: str, rank: int) -> None:
    """Patch in a process that does nothing else, and print the peak of its resident memory, or of the GPU's, in MiB."""
    import torch

    base = unet(kind, dtype)
    patch_once(patched(base, adapter(base, method, rank)))()
    cuda = base.load_device.type == "cuda"
    print(torch.cuda.max_memory_allocated(base.load_device) / 2**20 if cuda else memory("VmHWM"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("patch", "forward", "load", "memory")
    parser.add_argument("what", nargs="*", help=f"which of {', '.join(kinds)} (all)")
    parser.add_argument("--model", nargs="+", choices=_MODELS, default=_MODELS)
    parser.add_argument("--dtype", nargs="+", choices=_DTYPES, default=_DTYPES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", choices=("deft", "lora"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.what or kinds
    if set(chosen) - set(kinds):
        parser.error(f"choose from {', '.join(kinds)}")
    prepare(options.device)
    if options.peak:
        print_peak(options.model[0], options.dtype[0], options.peak, options.rank)
        return
    for kind in options.model:
        if "load" in chosen:
            measure_loading(kind, options)
        for dtype in options.dtype:
            if "patch" in chosen:
                measure_patching(kind, dtype, options)
            if "memory" in chosen:
                measure_memory(kind, dtype, options)
            if "forward" in chosen and kind == "sd15":  # a forward of SDXL takes minutes on two cores
                measure_forward(kind, dtype, options)


if __name__ == "__main__":
    main()
