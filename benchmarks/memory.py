"""What a training needs of a card's memory, by the pack's estimate for the full-size bases, without weights or a GPU.

$(make -s python) benchmarks/memory.py [--base NAME ...] [--method lora deft] [--write]

Networks are made of tensors without memory (PyTorch's "meta" device), so it takes seconds and no download. Prints a
line of JSON for each base, method and mode of gradient checkpointing. --write: puts the tables into docs/training.md
and README.md. Batch 1, rank 8, AdamW, attention layers, computed in 16 bits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from apply import CONFIGS, ROOT, prepare
from configs import FLUX, FLUX2_KLEIN, Z_IMAGE

GIB = 2**30
CONTEXT = GIB // 2  # of CUDA, and what its allocator cannot use
RESERVED = 400 * 2**20  # what ComfyUI keeps free for others
_RANK = 8
CARDS = (8, 12, 16, 24)
TRAINING, README = ROOT / "docs" / "training.md", ROOT / "README.md"


@dataclass(frozen=True)
class Sized:
    """A base of its published size, and what is trained on it.

    name: of the class in comfy.supported_models. latent: of one picture. text: tokens and width. others: shapes of what
    the network takes besides. fp8: whether matrices are stored in 8 bits. target: GiB of a card that it has to fit.
    """

    title: str
    pixels: int
    name: str
    config: dict[str, Any]
    latent: tuple[int, ...]
    text: tuple[int, int]
    others: dict[str, tuple[int, ...]]
    fp8: bool = False
    target: int | None = None


FLUX_OTHERS = {"y": (1, 768), "guidance": (1,)}
_BASES = {
    "sd15": Sized("SD 1.5", 512, "SD15", CONFIGS["sd15"], (4, 64, 64), (77, 768), {}),
    "sdxl": Sized("SDXL", 1024, "SDXL", CONFIGS["sdxl"], (4, 128, 128), (77, 2048), {"y": (1, 2816)}, target=8),
    "flux_512": Sized("Flux.1 dev fp8", 512, "Flux", FLUX, (16, 64, 64), (512, 4096), FLUX_OTHERS, True, 12),
    "flux_1024": Sized("Flux.1 dev fp8", 1024, "Flux", FLUX, (16, 128, 128), (512, 4096), FLUX_OTHERS, True, 16),
    "klein": Sized("Flux.2 klein 4B", 1024, "Flux2", FLUX2_KLEIN, (128, 64, 64), (512, 7680), {}),
    "z_image": Sized("Z-Image", 1024, "ZImage", Z_IMAGE, (16, 128, 128), (256, 2560), {}),
    "qwen": Sized(
        "Qwen-Image fp8",
        1024,
        "QwenImage",
        {"image_model": "qwen_image", "in_channels": 64, "num_layers": 60},
        (16, 1, 128, 128),
        (256, 3584),
        {},
        True,
        24,
    ),
}


def network_of(base: Sized) -> Any:
    """ComfyUI's network without memory, in the dtype that it computes in."""
    import comfy.supported_models
    import torch

    of_class = getattr(comfy.supported_models, base.name)
    chosen: Any = type(base.name, (of_class,), {"unet_config": {}})(dict(base.config))
    chosen.set_inference_dtype(torch.bfloat16, None)
    return chosen.get_model({}, "", device=torch.device("meta")).diffusion_model.eval()


def forward_of(base: Sized, network: Any) -> Callable[[], Any]:
    """A forward pass of one picture."""
    import torch

    def empty(*shape: int) -> Any:
        return torch.empty(*shape, device="meta", dtype=torch.bfloat16)

    others: dict[str, Any] = {name: empty(*shape) for name, shape in base.others.items()}
    if base.name == "ZImage":
        others["num_tokens"] = base.text[0]
    x, level, text = empty(1, *base.latent), empty(1), empty(1, *base.text)
    return lambda: network(x, level, context=text, transformer_options={}, **others)


def weights_of(base: Sized, network: Any) -> tuple[int, int]:
    """Bytes of the weights as they are stored, and of the largest as it is computed with, if that differs."""
    matrices = [weight.numel() for weight in network.parameters() if weight.ndim > 1]
    stored = sum(2 * weight.numel() for weight in network.parameters()) - (sum(matrices) if base.fp8 else 0)
    return stored, 2 * max(matrices) if base.fp8 else 0


def parameters_of(method: str, layers: dict[str, Any]) -> list[Any]:
    """The trained values of the layers."""
    import torch

    from deft_pack.deft_ops import methods

    training, source, made = methods.training_of(method), torch.Generator().manual_seed(0), {}
    for layer in layers.values():
        shape = tuple(layer.weight.shape)
        if shape not in made:
            made[shape] = list(
                training.init(torch.zeros(shape), _RANK, training.settings_of(rank=_RANK), source).values()
            )
    return [parameter for layer in layers.values() for parameter in made[tuple(layer.weight.shape)]]


def rows(name: str, method_names: list[str]) -> Iterator[dict[str, Any]]:
    """The estimates for a base, a line for each method and mode."""
    import comfy.model_management

    from deft_pack.trainers.settings import targets
    from deft_pack.trainers.settings.checkpointing import CHECKPOINTING_MODES
    from deft_pack.trainers.step import activation_bytes, memory
    from deft_pack.trainers.step.attention import pytorch_attention

    base = _BASES[name]
    network = network_of(base)
    layers = targets.select(network, "attention")
    before, comfy.model_management.in_training = getattr(comfy.model_management, "in_training", False), True
    try:
        with pytorch_attention():
            _, shown = activation_bytes.measure(network, forward_of(base, network), set(layers.values()))
    finally:
        comfy.model_management.in_training = before
    stored, computed = weights_of(base, network)
    for method in method_names:
        adapter = memory.adapter_bytes(parameters_of(method, layers), "AdamW", False)
        needs = memory.Needs(stored, adapter, 1, shown)
        for mode in CHECKPOINTING_MODES:
            estimate = needs.of(mode)
            total = stored + estimate.added + computed + CONTEXT
            yield {
                "base": base.title,
                "pixels": base.pixels,
                "method": method,
                "mode": mode,
                "weights": stored,
                "adapter": adapter,
                "activations": estimate.activations + computed,
                "host": estimate.host,
                "total": total,
                "more": round(estimate.more, 3),
                "target": base.target,
                "meets": None if base.target is None else total <= base.target * GIB,
            }


def size(value: float) -> str:
    """GiB with one decimal."""
    return f"{value / GIB:.1f}"


def table(measured: list[dict[str, Any]]) -> list[str]:
    """A row of the table of docs/training.md for each base, of lines of LoRA and DEFT."""
    lines = []
    for base in dict.fromkeys((row["base"], row["pixels"]) for row in measured):
        of_base = [row for row in measured if (row["base"], row["pixels"]) == base]
        lora, deft = ([row for row in of_base if row["method"] == method] for method in ("lora", "deft"))
        off, second, every, offloaded = lora
        cells = [
            f"{base[0]}, {base[1]} px",
            size(off["weights"]),
            f"{size(off['adapter'])}, {size(deft[0]['adapter'])}",
            *(f"{size(row['activations'])}: **{size(row['total'])}**" for row in (off, second, every)),
            f"{size(offloaded['activations'])}: **{size(offloaded['total'])}**, {size(offloaded['host'])}",
            f"{second['more']:.0%}, {every['more']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def on_card(modes: list[dict[str, Any]], card: int) -> str:
    """What a card of so many GiB can do with a base: the mode that costs least, or how much of the weights must go."""
    fitting = [row["mode"] for row in modes if row["total"] + RESERVED <= card * GIB]
    if fitting:
        return fitting[0]
    least = min(modes, key=lambda row: row["total"])
    away = least["total"] + RESERVED - card * GIB
    return f"offloaded, {size(away)} GB of weights away" if away < least["weights"] / 2 else "not tried"


def hardware(measured: list[dict[str, Any]]) -> list[str]:
    """A row of README's table for each base: what each card can do."""
    lines = []
    for base in dict.fromkeys((row["base"], row["pixels"]) for row in measured):
        of_base = [row for row in measured if (row["base"], row["pixels"]) == base and row["method"] == "lora"]
        lines.append(f"| {base[0]}, {base[1]} px | {' | '.join(on_card(of_base, card) for card in CARDS)} |")
    return lines


def replaced(text: str, name: str, lines: list[str]) -> str:
    """A page with other rows in the table below a marker; the table's two head lines stay."""
    marker = f"<!-- {name}: benchmarks/memory.py --write -->"
    before, mark, after = text.partition(marker)
    if not mark:
        raise ValueError(f"The page has no {marker!r}.")
    table, gap, rest = after.strip("\n").partition("\n\n")
    head = table.splitlines()[:2]
    return before + marker + "\n\n" + "\n".join([*head, *lines]) + gap + rest.rstrip("\n") + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Print the lines; write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", nargs="+", choices=_BASES, default=list(_BASES))
    parser.add_argument("--method", nargs="+", default=["lora", "deft"])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if options.write and (options.base, options.method) != (list(_BASES), ["lora", "deft"]):
        parser.error("--write needs all bases, and LoRA and DEFT")
    prepare()
    measured = []
    for name in options.base:
        for row in rows(name, options.method):
            sizes = {key: round(row[key] / GIB, 2) for key in ("weights", "adapter", "activations", "host", "total")}
            print(json.dumps(row | sizes), flush=True)
            measured.append(row)
    if options.write:
        for page, name, lines in ((TRAINING, "memory", table(measured)), (README, "hardware", hardware(measured))):
            page.write_text(replaced(page.read_text(encoding="utf-8"), name, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
