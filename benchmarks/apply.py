"""What it costs to patch weights with DEFT and with ComfyUI's LoRA.

    $(make -s python) benchmarks/apply.py [--layers 0.1] [--runs 5] [--rank 8]

apply.<dtype>: seconds of ComfyUI's patch_model on the CPU for attention layers of SDXL's shapes, with a DEFT adapter
(qr) and with a LoRA of the same rank. SDXL has 560 such layers; `--layers` is the share of them that is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
from comfy_server import find_comfyui  # noqa: E402
from frame import compare  # noqa: E402

# SDXL's transformer blocks: channels -> number of blocks. Text tokens have 2048 channels.
BLOCKS = {640: 10, 1280: 60}
TEXT = 2048


def prepare() -> None:
    """Make ComfyUI importable in this process, on the CPU, and the pack under the name deft_pack."""
    sys.path.insert(0, str(find_comfyui()))
    from comfy.cli_args import args

    args.cpu = True
    import utils.extra_config  # noqa: F401  (before nodes: comfy/utils.py would take its name)

    spec = importlib.util.spec_from_file_location(
        "deft_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["deft_pack"] = module
    spec.loader.exec_module(module)


def shapes(share: float) -> dict[str, tuple[int, int]]:
    """Names and shapes of the attention weights of a share of SDXL's transformer blocks."""
    found = {}
    for width, count in BLOCKS.items():
        for block in range(max(1, round(count * share))):
            for attention, context in (("attn1", width), ("attn2", TEXT)):
                for name, inputs in (("to_q", width), ("to_k", context), ("to_v", context), ("to_out", width)):
                    found[f"block{width}_{block}_{attention}_{name}"] = (width, inputs)
    return found


def patcher(weights: dict[str, tuple[int, int]], dtype: Any) -> Any:
    """A ModelPatcher over a model that holds nothing but these layers."""
    import comfy.model_patcher
    import comfy.ops
    import torch

    device = torch.device("cpu")
    network = torch.nn.Module()
    generator = torch.Generator().manual_seed(0)
    for name, (outputs, inputs) in weights.items():
        layer = comfy.ops.disable_weight_init.Linear(inputs, outputs, bias=False, device=device, dtype=dtype)
        layer.weight.data.copy_(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
        network.add_module(name, layer)
    model = torch.nn.Module()
    model.diffusion_model = network
    return comfy.model_patcher.ModelPatcher(model, device, device)


def adapter(weights: dict[str, tuple[int, int]], method: str, rank: int) -> dict[str, Any]:
    """Random layers of a method, by file key."""
    import torch

    from deft_pack.deft_ops import methods

    generator = torch.Generator().manual_seed(1)
    module = methods.get(method)
    tensors = {}
    for name, shape in weights.items():
        factors = module.factors(module.init(torch.zeros(shape), rank, generator=generator))
        for suffix, tensor in module.to_tensors(factors).items():
            tensors[f"diffusion_model.{name}.{suffix}"] = tensor
    return tensors


def patched(base: Any, tensors: dict[str, Any], keys: dict[str, str]) -> Any:
    """A clone of the patcher with the adapter added, as ComfyUI's Load LoRA does it."""
    import comfy.lora

    model = base.clone()
    patches = comfy.lora.load_lora(tensors, keys)
    assert len(patches) == len(keys)
    model.add_patches(patches, 0.5)
    return model


def seconds_to_patch(model: Any) -> float:
    """Patch all weights, and undo it outside of the measurement."""
    import torch

    device = torch.device("cpu")
    with torch.inference_mode():
        started = time.perf_counter()
        model.patch_model(device)
        seconds = time.perf_counter() - started
        model.unpatch_model(device)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=float, default=0.1, help="share of SDXL's 560 attention layers")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args()
    prepare()
    import torch

    from deft_pack.patches.weight_adapter import register

    register()
    weights = shapes(options.layers)
    keys = {f"diffusion_model.{name}": f"diffusion_model.{name}.weight" for name in weights}
    deft, lora = (adapter(weights, method, options.rank) for method in ("deft", "lora"))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.inference_mode():
            base = patcher(weights, dtype)
        ours, peer = patched(base, deft, keys), patched(base, lora, keys)
        compare(f"apply.{str(dtype).removeprefix('torch.')}", lambda ours=ours: seconds_to_patch(ours),
                lambda peer=peer: seconds_to_patch(peer), runs=options.runs)


if __name__ == "__main__":
    main()
