"""Make docs/methods_NAME.png: what each method does to one weight of the demo's denoiser, and print it in numbers.

    $(make -s python) scripts/make_method_pictures.py [ADAPTERS]

ADAPTERS is a folder with the files of an earlier run; an empty or new one is filled. Without it they are trained in a
temporary folder. The adapters are those of example_workflows/api/compare_all_methods.json with rank 4, trained on a
ComfyUI server: some two minutes on two CPU cores.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import picture_marks
from comfy_server import ROOT, ComfyServer, find_comfyui
from rooms import load_room

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

workflow_files = load_room("workflow_sources", "files")
_DOCS = ROOT / "docs"
_EXAMPLE = "compare_all_methods"
_DEMO_MODELS = ROOT / "demo" / "models"
LAYER = "joint_blocks.1.x_block.attn.proj"  # 192 x 192: what the image tokens' attention gives, in the second block
_RANK = 4  # of those that have one
_TOKEN = "textual_inversion"
_NAMES = {
    "deft": f"DEFT, rank {_RANK}",
    "para": f"PaRa, rank {_RANK}",
    "lora": f"LoRA, rank {_RANK}",
    "svdiff": "SVDiff",
    "dreambooth": "DreamBooth",
    _TOKEN: "Textual Inversion, 2 vectors",
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


def trainings(prompt: dict[str, Any]) -> dict[str, str]:
    """The node of the prompt, by method, that trains it, with the rank of the pictures where it has one."""
    nodes = {}
    for node_id, node in prompt.items():
        inputs = node["inputs"]
        if node["class_type"] == "DEFTTrainAdapter" and inputs.get("method.rank", _RANK) == _RANK:
            nodes[inputs["method"]] = node_id
        elif node["class_type"] == "DEFTTrainTextualInversion":
            nodes[_TOKEN] = node_id
    return {method: nodes[method] for method in _NAMES}


def marks() -> dict[Path, str]:
    """What each picture is made from."""
    prompt = workflow_files.computed(_EXAMPLE)
    return {
        _DOCS / f"methods_{method}.png": picture_marks.digest(
            needed(prompt, [node_id]), _NAMES[method], _WORDS if method == _TOKEN else [LAYER, DIRECTIONS, CORNER]
        )
        for method, node_id in trainings(prompt).items()
    }


def train(folder: Path) -> None:
    """Fill the folder with METHOD.safetensors, trained as the demo does it."""
    whole = dict(workflow_files.prompt_of(_EXAMPLE))
    nodes = trainings(whole)
    prompt = needed(whole, list(nodes.values()))
    token = nodes.pop(_TOKEN)
    for method, node_id in nodes.items():
        prompt[f"save_{method}"] = {
            "class_type": "DEFTSaveAdapter",
            "inputs": {
                "adapter": [node_id, 0],
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
        for method in nodes:
            shutil.copy(Path(base) / "output" / f"{method}_00001_.safetensors", folder / f"{method}.safetensors")
        (vectors,) = Path(base).rglob(f"{prompt[token]['inputs']['token']}.safetensors")
        shutil.copy(vectors, folder / f"{_TOKEN}.safetensors")


def change_of(method: str, file: Path, weight: Tensor) -> Tensor:
    """The change of the layer's weight by the adapter in the file, at strength 1."""
    from safetensors.torch import load_file

    from deft_ops import adapter as adapters
    from deft_ops import methods

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(15, 3), dpi=80, layout="constrained")
    FigureCanvasAgg(picture)
    picture.suptitle(_NAMES[method], fontsize=11)
    return picture, picture.subplots(1, 5)


def png(picture: Figure) -> bytes:
    """The figure as a file."""
    data = io.BytesIO()
    picture.savefig(data, format="png")
    return data.getvalue()


def draw_weight(method: str, weight: Tensor, change: Tensor) -> bytes:
    """Draw W, its change and their sum; singular values; and how much W has in the directions that change most."""
    import torch

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
    return png(picture)


def draw_token(vectors: Tensor, table: Tensor, words: list[int]) -> bytes:
    """The table of tokens with the new rows below, their way from the words they started from, and their neighbours."""
    import torch

    picture, (first, second, third, values, bars) = figure(_TOKEN)
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
    return png(picture)


def main() -> None:
    """Train or take the adapters, draw, print."""
    sys.path.insert(0, str(ROOT))
    import torch
    from safetensors.torch import load_file

    from deft_ops import inspection

    files = {path.stem.removeprefix("methods_"): (path, mark) for path, mark in marks().items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if not (folder / f"{_TOKEN}.safetensors").is_file():
            train(folder)
        weight = load_file(_DEMO_MODELS / "diffusion_models" / "deft_demo_denoiser.safetensors")[
            f"{LAYER}.weight"
        ].float()
        print(f"{LAYER}, {list(weight.shape)}")
        for method in [name for name in _NAMES if name != _TOKEN]:
            change = change_of(method, folder / f"{method}.safetensors", weight)
            path, mark = files[method]
            picture_marks.write(path, draw_weight(method, weight, change), mark)
            measures = inspection.of_delta(change, weight)
            lost = 1 - float(torch.linalg.svdvals(weight + change).sum() / torch.linalg.svdvals(weight).sum())
            print(
                f"{_NAMES[method]}: |change| / |W| {measures.ratio:.3f}, effective rank {measures.effective_rank:.1f}, "
                f"sum of the singular values {-100 * lost:+.1f} %"
            )
        (vectors,) = load_file(folder / f"{_TOKEN}.safetensors").values()
        table = load_file(_DEMO_MODELS / "deft_demo_text_encoder.safetensors")[
            "text_model.embeddings.token_embedding.weight"
        ]
        vocabulary = json.loads((_DEMO_MODELS / "tokenizer" / "vocab.json").read_text())
        words = [vocabulary[f"{word}</w>"] for word in _WORDS]
        table, vectors = table.float(), vectors.float()
        path, mark = files[_TOKEN]
        picture_marks.write(path, draw_token(vectors, table, words), mark)
        moved = ((vectors - table[words]).norm(dim=1) / table[words].norm(dim=1)).tolist()
        print(f"{_NAMES[_TOKEN]}: moved by {moved[0]:.2f} and {moved[1]:.2f} of the size of their start")


if __name__ == "__main__":
    main()
