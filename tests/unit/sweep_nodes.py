"""A small server's nodes, in the form of ComfyUI's /object_info, a workflow of them that trains and samples, and the
cells of a plan over it.

The nodes are written by hand, with what plans of sweeps look at: types, limits, choices, dynamic combos, outputs. That
the same holds for the nodes of a real server is shown in tests/server/test_sweep_cells.py.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from deft_pack.sweeps.cells import Compiler
from deft_pack.sweeps.files import Files
from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.planned import Cells, PlannedCell, PlannedTraining
from deft_pack.sweeps.schema import Info

Inputs = dict[str, list[Any]]
Workflow = dict[str, dict[str, Any]]


def described(required: Inputs, *outputs: str, optional: Inputs | None = None, saves: bool = False) -> dict[str, Any]:
    """What /object_info says of a node."""
    return {
        "input": {"required": required, "optional": optional or {}},
        "output": list(outputs),
        "output_node": saves,
    }


def whole(default: int, low: int = 0, high: int = 2**31) -> list[Any]:
    return ["INT", {"default": default, "min": low, "max": high}]


def real(default: float, low: float = -10.0, high: float = 10.0) -> list[Any]:
    return ["FLOAT", {"default": default, "min": low, "max": high}]


METHOD = [
    "COMFY_DYNAMICCOMBO_V3",
    {
        "options": [
            {"key": "deft", "inputs": {"required": {"rank": whole(4, 1), "projector": [["qr", "relu"], {}]}}},
            {"key": "lora", "inputs": {"required": {"rank": whole(4, 1), "alpha": real(0.0)}}},
            {"key": "svdiff", "inputs": {"required": {}, "optional": {"scale": real(1.0)}}},
        ]
    },
]
INFO: dict[str, Any] = {
    "EmptyImage": described(
        {"width": whole(512, 1, 16384), "height": whole(512, 1, 16384), "color": whole(0)}, "IMAGE"
    ),
    "ImageInvert": described({"image": ["IMAGE"]}, "IMAGE"),
    "LoadImage": described({"image": [["x.png"], {"image_upload": True}]}, "IMAGE", "MASK"),
    "SaveImage": described({"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}, saves=True),
    "PreviewImage": described({"images": ["IMAGE"]}, saves=True),
    "UNETLoader": described({"unet_name": [["base", "other"]], "weight_dtype": [["default", "fp8"]]}, "MODEL"),
    "CLIPLoader": described({"clip_name": [["text"]]}, "CLIP"),
    "CLIPTextEncode": described({"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}, "CONDITIONING"),
    "StringConcatenate": described({"string_a": ["STRING", {}], "string_b": ["STRING", {}]}, "STRING"),
    "KSampler": described(
        {
            "model": ["MODEL"],
            "positive": ["CONDITIONING"],
            "seed": whole(0),
            "cfg": real(8.0, 0.0, 100.0),
            "sampler_name": [["euler", "heun"], {}],
        },
        "IMAGE",
    ),
    "DEFTTrainAdapter": described(
        {"model": ["MODEL"], "positive": ["CONDITIONING"], "method": METHOD, "steps": whole(100, 1), "seed": whole(0)},
        "LORA_MODEL",
        "LOSS_MAP",
        "STRING",
        "IMAGE",
        optional={"tiled": ["BOOLEAN", {"default": False}]},
    ),
    "DEFTTrainTextualInversion": described(
        {"model": ["MODEL"], "clip": ["CLIP"], "seed": whole(0)}, "STRING", "LOSS_MAP", "STRING", "IMAGE", "LORA_MODEL"
    ),
    "DEFTApplyAdapter": described(
        {"model": ["MODEL"], "adapter": ["LORA_MODEL"], "strength_model": real(1.0)},
        "MODEL",
        optional={"clip": ["CLIP"]},
    ),
    "DEFTSaveAdapter": described(
        {
            "adapter": ["LORA_MODEL"],
            "filename_prefix": ["STRING", {"default": "adapters/deft"}],
            "place": [["loras", "output"], {}],
            "precision": [["float32", "float16"], {}],
        },
        "STRING",
        optional={"note": ["STRING", {"default": "none"}]},
        saves=True,
    ),
    "DEFTLoadAdapterFile": described({"file": [["a.safetensors"], {}]}, "LORA_MODEL"),
    "DEFTScoreImages": described({"images": ["IMAGE"], "text": ["STRING", {}]}, "STRING", "DEFT_SCORES"),
    "DEFTSaveScores": described(
        {
            "scores": [
                "COMFY_AUTOGROW_V3",
                {"template": {"input": {"required": {"scores": ["DEFT_SCORES"]}}, "prefix": "scores"}},
            ],
            "filename_prefix": ["STRING", {"default": "scores"}],
        },
        "STRING",
        saves=True,
    ),
    "PreviewAny": described({"source": ["*", {}]}, saves=True),
}


def node(class_type: str, title: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


TRIVIAL = {
    "1": node("EmptyImage", "Paint", width=32, height=32, color=0),
    "2": node("SaveImage", "Save picture", images=["1", 0], filename_prefix="sweeps/trivial"),
}


def training() -> dict[str, Any]:
    """A model that is trained, sampled with what was learned, and scored; the trainer's loss is shown."""
    method = {"method": "deft", "method.rank": 4, "method.projector": "qr"}
    return {
        "1": node("UNETLoader", "Model", unet_name="base", weight_dtype="default"),
        "2": node("CLIPLoader", "Text encoder", clip_name="text"),
        "3": node("CLIPTextEncode", "Caption", text="a sks bear", clip=["2", 0]),
        "4": node("DEFTTrainAdapter", "Train", model=["1", 0], positive=["3", 0], steps=100, seed=1, **method),
        "5": node("PreviewImage", "Loss", images=["4", 3]),
        "6": node("DEFTApplyAdapter", "Apply", model=["1", 0], adapter=["4", 0], strength_model=1.0),
        "7": node("CLIPTextEncode", "Prompt", text="a sks bear in the snow", clip=["2", 0]),
        "8": node("KSampler", "Sample", model=["6", 0], positive=["7", 0], seed=7, cfg=3.0, sampler_name="euler"),
        "9": node("SaveImage", "Save picture", images=["8", 0], filename_prefix="sweep/picture"),
        "10": node("DEFTScoreImages", "Score", images=["8", 0], text="a sks bear in the snow"),
    }


def twice_trained() -> dict[str, Any]:
    """The same with a second training on top of the first."""
    workflow = training()
    second, again = copy.deepcopy(workflow["4"]), copy.deepcopy(workflow["6"])
    second["_meta"]["title"], again["_meta"]["title"] = "Train more", "Apply more"
    second["inputs"] |= {"model": ["6", 0], "seed": 99}
    again["inputs"] |= {"model": ["6", 0], "adapter": ["11", 0]}
    workflow |= {"11": second, "12": again}
    workflow["8"]["inputs"]["model"] = ["12", 0]
    return workflow


def token_trained() -> dict[str, Any]:
    """Textual Inversion: what is learned is the name of an embedding, which goes into the prompt."""
    workflow = training()
    workflow["4"] = node("DEFTTrainTextualInversion", "Train token", model=["1", 0], clip=["2", 0], seed=1)
    del workflow["6"], workflow["3"]
    workflow["13"] = node("StringConcatenate", "Join", string_a="a picture of ", string_b=["4", 0])
    workflow["7"]["inputs"]["text"] = ["13", 0]
    workflow["8"]["inputs"]["model"] = ["1", 0]
    return workflow


COLORS = "axes: {color: {into: Paint.color, values: [1, 2, 3]}}\n"


def compiled(
    folder: Path, workflow: Workflow, text: str = "", info: Info = INFO, **options: Any
) -> tuple[Compiler, Cells]:
    """A plan of this text over this workflow, and its cells."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.yaml").write_text(f"workflow: w.json\n{text}")
    compiler = Compiler(read_plan(folder / "plan.yaml"), copy.deepcopy(workflow), info, Files(), **options)
    return compiler, compiler.cells()


def keys(cells: Cells) -> list[str]:
    return [cell.key for cell in cells.pictures]


def inputs(compiler: Compiler, cell: PlannedCell | PlannedTraining, title: str) -> dict[str, Any]:
    """What the node of this title gets in the whole workflow of a cell."""
    return next(node["inputs"] for node in compiler.whole(cell.choice).values() if node["_meta"]["title"] == title)


def labels(compiler: Compiler, cells: Cells) -> list[dict[str, str]]:
    return [compiler.labels(cell.choice) for cell in cells.pictures]


def kinds(prompt: Workflow) -> list[str]:
    return sorted(each["class_type"] for each in prompt.values())
