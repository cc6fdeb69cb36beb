"""Make docs/methods_NAME.png: what each method does to one weight of the demo's denoiser, and print it in numbers.

    $(make -s python) scripts/make_method_pictures.py [ADAPTERS]

ADAPTERS is a folder with the files of an earlier run; an empty or new one is filled. Without it they are trained in a
temporary folder. The adapters are those of example_workflows/api/compare_all_methods.json with rank 4, trained on a
ComfyUI server: some two minutes on two CPU cores.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from comfy_server import ComfyServer, find_comfyui  # noqa: E402

from deft_ops import adapter as adapters  # noqa: E402
from deft_ops import inspection, methods  # noqa: E402

_WORKFLOW = ROOT / "example_workflows" / "api" / "compare_all_methods.json"
_DEMO_MODELS = ROOT / "demo" / "models"
LAYER = "joint_blocks.1.x_block.attn.proj"  # 192 x 192: what the image tokens' attention gives, in the second block
_TITLES = {
    "deft": "Train DEFT r4",
    "para": "Train PaRa r4",
    "lora": "Train LoRA r4",
    "svdiff": "Train SVDiff",
    "dreambooth": "Train DreamBooth",
}
_NAMES = {
    "deft": "DEFT, rank 4",
    "para": "PaRa, rank 4",
    "lora": "LoRA, rank 4",
    "svdiff": "SVDiff",
    "dreambooth": "DreamBooth",
    "textual_inversion": "Textual Inversion, 2 vectors",
}
_WORDS = ("teddy", "bear")  # what the demo's new token starts from
DIRECTIONS = 8
CORNER = 64  # rows and columns of a weight that are shown: more are smaller than a dot
BEFORE, AFTER, CHANGE = "#7a7a7a", "#1f77b4", "#d62728"


def needed(prompt: dict[str, Any], ends: list[str]) -> dict[str, Any]:
    """The nodes of an API-format prompt that these nodes need, and themselves."""
    nodes: dict[str, Any] = {}
    queue = list(ends)
    while queue:
        node_id = queue.pop()
        if node_id not in nodes:
            nodes[node_id] = prompt[node_id]
            queue += [value[0] for value in prompt[node_id]["inputs"].values() if isinstance(value, list)]
    return nodes


def train(folder: Path) -> None:
    """Fill the folder with METHOD.safetensors, trained as the demo does it."""
    whole = json.loads(_WORKFLOW.read_text())
    ids = {node["_meta"]["title"]: node_id for node_id, node in whole.items()}
    token = ids["Train Textual Inversion"]
    prompt = needed(whole, [*(ids[title] for title in _TITLES.values()), token])
    for method, title in _TITLES.items():
        prompt[f"save_{method}"] = {
            "class_type": "DEFTSaveAdapter",
            "inputs": {
                "adapter": [ids[title], 0],
                "filename_prefix": method,
                "format": "native (.safetensors)",
                "place": "output",
            },
        }
    # only its file is needed; any output node makes ComfyUI run it
    prompt["token"] = {"class_type": "PreviewAny", "inputs": {"source": [token, 0]}}
    with tempfile.TemporaryDirectory(prefix="deft-methods-") as base:
        with ComfyServer(find_comfyui(), Path(base)) as server:
            server.run(prompt)
        folder.mkdir(parents=True, exist_ok=True)
        for method in _TITLES:
            shutil.copy(Path(base) / "output" / f"{method}_00001_.safetensors", folder / f"{method}.safetensors")
        (vectors,) = Path(base).rglob(f"{prompt[token]['inputs']['token']}.safetensors")
        shutil.copy(vectors, folder / "textual_inversion.safetensors")


def change_of(method: str, file: Path, weight: Tensor) -> Tensor:
    """The change of the layer's weight by the adapter in the file, at strength 1."""
    name = f"diffusion_model.{LAYER}"
    tensors = load_file(file)
    module = methods.get(method)
    # A difference belongs to ComfyUI's own loader, and is no layer of a method.
    group = adapters.layers(tensors).get(name) or {"diff": tensors[f"{name}.diff"]}
    change: Tensor = module.delta(module.from_tensors(group), weight)
    return change


def heat(axes: Any, matrix: Tensor, title: str, limit: float) -> None:
    """A matrix in blue (negative) and red (positive), white at zero; `limit` is the value of the full colours."""
    axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
    axes.set_title(f"{title}  (±{limit:.2g})", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def limit_of(matrix: Tensor) -> float:
    """A colour limit that a few large values do not decide."""
    return float(matrix.abs().flatten().quantile(0.98)) or 1.0


def figure(method: str) -> tuple[Figure, Any]:
    """An empty figure with five places."""
    picture = Figure(figsize=(15, 3), dpi=80, layout="constrained")
    FigureCanvasAgg(picture)
    picture.suptitle(_NAMES[method], fontsize=11)
    return picture, picture.subplots(1, 5)


def draw_weight(method: str, weight: Tensor, change: Tensor, file: Path) -> None:
    """Draw W, its change and their sum; singular values; and how much W has in the directions that change most."""
    after = weight + change
    picture, (first, second, third, values, bars) = figure(method)
    for place, matrix, title, scale in (
        (first, weight, "W", weight),
        (second, change, "change", change),
        (third, after, "W + change", weight),
    ):
        heat(place, matrix[:CORNER, :CORNER], title, limit_of(scale))
    for matrix, label, colour, line in (
        (weight, "W", BEFORE, "-"),
        (after, "W + change", AFTER, "--"),
        (change, "change", CHANGE, "-"),
    ):
        values.semilogy(torch.linalg.svdvals(matrix).clamp(min=1e-4).numpy(), line, label=label, color=colour)
    values.set_ylim(bottom=1e-3)
    values.set_title("singular values", fontsize=9)
    values.legend(fontsize=8, loc="lower center")
    directions = torch.linalg.svd(change).U[:, :DIRECTIONS]
    places = torch.arange(DIRECTIONS).numpy()
    for matrix, shift, label, colour in ((weight, -0.2, "W", BEFORE), (after, 0.2, "W + change", AFTER)):
        bars.bar(places + shift, (directions.T @ matrix).norm(dim=1).numpy(), 0.4, label=label, color=colour)
    bars.set_xticks(places, [str(place + 1) for place in places])
    bars.set_title("size in the output directions of the change", fontsize=9)
    bars.legend(fontsize=8, loc="lower right")
    picture.savefig(file)


def draw_token(vectors: Tensor, table: Tensor, words: list[int], file: Path) -> None:
    """The table of tokens with the new rows below, their way from the words they started from, and their neighbours."""
    picture, (first, second, third, values, bars) = figure("textual_inversion")
    start = table[words]
    heat(first, table[max(0, words[0] - 60) : words[0] + 1], "a part of the table, unchanged", limit_of(table))
    heat(second, start, "rows that it starts from: teddy, bear", limit_of(table))
    heat(third, vectors, "the two rows that are added", limit_of(vectors))
    values.hist(table.norm(dim=1).numpy(), bins=40, color=BEFORE)
    for row, colour in zip(vectors, (AFTER, CHANGE), strict=True):
        values.axvline(float(row.norm()), color=colour)
    values.set_title("sizes of all rows, and of the two (lines)", fontsize=9)
    near = torch.nn.functional.normalize(table, dim=1) @ torch.nn.functional.normalize(vectors, dim=1).T
    for column, (word, colour) in enumerate(zip(_WORDS, (AFTER, CHANGE), strict=True)):
        bars.plot(near[:, column].sort(descending=True).values[:40].numpy(), color=colour, label=f"from {word}")
        bars.axhline(float(near[words[column], column]), color=colour, linestyle=":")
    bars.set_title("cosine to the nearest rows; dotted: to its start", fontsize=9)
    bars.legend(fontsize=8)
    picture.savefig(file)


def main() -> None:
    """Train or take the adapters, draw, print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if not (folder / "textual_inversion.safetensors").is_file():
            train(folder)
        weight = load_file(_DEMO_MODELS / "diffusion_models" / "deft_demo_denoiser.safetensors")[
            f"{LAYER}.weight"
        ].float()
        print(f"{LAYER}, {list(weight.shape)}")
        for method in _TITLES:
            file = folder / f"{method}.safetensors"
            change = change_of(method, file, weight)
            draw_weight(method, weight, change, ROOT / "docs" / f"methods_{method}.png")
            measures = inspection.of_delta(change, weight)
            lost = 1 - float(torch.linalg.svdvals(weight + change).sum() / torch.linalg.svdvals(weight).sum())
            print(
                f"{_NAMES[method]}: |change| / |W| {measures.ratio:.3f}, effective rank {measures.effective_rank:.1f}, "
                f"sum of the singular values {-100 * lost:+.1f} %"
            )
        (vectors,) = load_file(folder / "textual_inversion.safetensors").values()
        table = load_file(_DEMO_MODELS / "deft_demo_text_encoder.safetensors")[
            "text_model.embeddings.token_embedding.weight"
        ]
        vocabulary = json.loads((_DEMO_MODELS / "tokenizer" / "vocab.json").read_text())
        words = [vocabulary[f"{word}</w>"] for word in _WORDS]
        table, vectors = table.float(), vectors.float()
        draw_token(vectors, table, words, ROOT / "docs" / "methods_textual_inversion.png")
        moved = ((vectors - table[words]).norm(dim=1) / table[words].norm(dim=1)).tolist()
        print(f"{_NAMES['textual_inversion']}: moved by {moved[0]:.2f} and {moved[1]:.2f} of the size of their start")


if __name__ == "__main__":
    main()
