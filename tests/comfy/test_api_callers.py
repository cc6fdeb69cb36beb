"""Every node of the pack as a program calls it over the API: inputs that are missing, unknown, or linked to nothing.

The prompts are made of the nodes' own schemas. Each runs, or is refused by ComfyUI's validation, or fails with an error
message that a node has written: never with what Python says about None or a missing argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from . import models
from .conftest import PromptFailed
from .scorers import make_files
from .test_nodes_schema import written_ids

DYNAMIC, GROWING = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
# What takes long with its default; files and folders that are there.
CHOSEN = {"steps": 1, "file": "given.safetensors", "rank": 2, "token": "given-1", "protocol": "demo"}
CLEAR = {"ValueError", "FileNotFoundError", "NotWritten"}
# Those that ask for more than the least: another model, CLIP-T, references, a second picture, words to start from,
# checkpoints.
NEED_MORE = {
    *("DEFTExtractAdapter", "DEFTFidelityPlot", "DEFTScoreImages", "DEFTScoreDrift", "DEFTScoreDiversity"),
    *("DEFTTrainTextualInversion", "DEFTLoadDreamBench"),
    "DEFTCompareCheckpoints",
}
VALUES: dict[str, Any] = {"nothing": None}


class AnyType(str):
    """A type that fits each input, as other packs have it."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class Given:
    """A node that gives one of VALUES."""

    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "give"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": ("STRING", {})}}

    def give(self, name: str) -> tuple[Any]:
        return (VALUES[name],)


@pytest.fixture(scope="module", autouse=True)
def given(comfyui_session: Any) -> Iterator[None]:
    """A small value of each type, files that the widgets name, and the node that gives the values."""
    import comfy.sd
    from safetensors.torch import save_file

    comfyui = comfyui_session
    comfyui.nodes.NODE_CLASS_MAPPINGS["Given"] = Given
    make_files(comfyui.base)
    layer = "diffusion_model.joint_blocks.0.x_block.attn.proj"
    tensors = {f"{layer}.deft_Q": torch.eye(64, 2), f"{layer}.deft_R": torch.ones(2, 64) * 0.01}
    file = comfyui.base / "models" / "loras" / "given.safetensors"
    save_file(tensors, file, {"method": "deft"})
    folder = comfyui.base / "input" / "given"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    (folder / "a.txt").write_text("a dog")
    model = models.sd3()
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    VALUES.update(
        MODEL=model,
        LATENT=models.latents(model),
        CONDITIONING=models.conditioning(),
        IMAGE=picture,
        VAE=comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}),
    )
    comfyui.reset()
    made = {
        "adapter": {"class_type": "DEFTLoadAdapterFile", "inputs": {"file": "given.safetensors", "projector": "auto"}},
        "clip": {"class_type": "DEFTDemoTextEncoder", "inputs": {}},
        "scorer": {"class_type": "DEFTLoadScorer", "inputs": {"protocol": "demo"}},
        "image": {"class_type": "Given", "inputs": {"name": "IMAGE"}},
        "scores": {
            "class_type": "DEFTScoreImages",
            "inputs": {"scorer": ["scorer", 0], "images": ["image", 0], "references": ["image", 0], "method": "a"},
        },
    }
    run = comfyui.run(made, want=["adapter", "clip", "scorer", "scores"])
    names = {"LORA_MODEL": "adapter", "CLIP": "clip", "DEFT_SCORER": "scorer", "DEFT_SCORES": "scores"}
    VALUES.update({kind: run.output(name) for kind, name in names.items()})
    yield
    del comfyui.nodes.NODE_CLASS_MAPPINGS["Given"]
    for kind in VALUES.keys() - {"nothing"}:
        del VALUES[kind]


def kind_of(spec: Any) -> str:
    return "COMBO" if isinstance(spec[0], list) else str(spec[0])


def value_of(name: str, spec: Any) -> Any:
    """A value for an input: the link to a node that gives one, or a widget's."""
    kind, options = kind_of(spec), spec[1] if len(spec) > 1 else {}
    if name in CHOSEN:
        return CHOSEN[name]
    if kind == "COMBO":
        choices = options.get("options") or (spec[0] if isinstance(spec[0], list) else [])
        return options.get("default") or (choices[0] if choices else "")
    if kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
        return options["default"]
    return [f"given {kind}", 0]


def least(node: Any, choices: dict[str, str] | None = None, inner: bool = True) -> dict[str, Any]:
    """The inputs that a node cannot do without; of a dynamic combo the first option or that of `choices`.

    inner: with the inputs that the option has.
    """
    inputs: dict[str, Any] = {}
    for name, spec in node.INPUT_TYPES().get("required", {}).items():
        if kind_of(spec) == DYNAMIC:
            options = {option["key"]: option["inputs"] for option in spec[1]["options"]}
            inputs[name] = (choices or {}).get(name) or CHOSEN.get(name) or next(iter(options))
            parts = options.get(inputs[name], {}).get("required", {}) if inner else {}
            inputs |= {f"{name}.{part}": value_of(part, one) for part, one in parts.items()}
        elif kind_of(spec) == GROWING:
            template = spec[1]["template"]
            part, one = next(iter(template["input"]["required"].items()))
            inputs[f"{name}.{template['prefix']}0"] = value_of(part, one)
        else:
            inputs[name] = value_of(name, spec)
    return inputs


def prompt(node_id: str, inputs: dict[str, Any]) -> dict[str, Any]:
    links = {value[0] for value in inputs.values() if isinstance(value, list)}
    values = {link: {"class_type": "Given", "inputs": {"name": link.removeprefix("given ")}} for link in links}
    return values | {"node": {"class_type": node_id, "inputs": inputs}}


def problem(comfyui: Any, node_id: str, inputs: dict[str, Any]) -> str:
    """What is wrong with what a caller reads; "" if nothing is."""
    try:
        comfyui.run(prompt(node_id, inputs), want=["node"])
    except PromptFailed as failed:
        if failed.stage == "validation":
            return ""
        assert failed.node_id == "node", failed
        if failed.kind.rpartition(".")[2] not in CLEAR or "NoneType" in failed.message or len(failed.message) < 20:
            return f"{failed.kind}: {failed.message[:150]}"
    return ""


def dynamic(node: Any) -> dict[str, list[str]]:
    """The options of each dynamic combo."""
    every = node.INPUT_TYPES().get("required", {}) | node.INPUT_TYPES().get("optional", {})
    return {
        name: [option["key"] for option in spec[1]["options"]]
        for name, spec in every.items()
        if kind_of(spec) == DYNAMIC
    }


@pytest.mark.parametrize("node_id", written_ids())
def test_what_is_missing_or_unknown(comfyui: Any, node_id: str) -> None:
    node = comfyui.pack_nodes[node_id]
    if node_id in NEED_MORE:
        assert comfyui.fail(prompt(node_id, least(node)), want=["node"]).kind == "ValueError"
        assert problem(comfyui, node_id, least(node)) == ""
    else:
        comfyui.run(prompt(node_id, least(node)), want=["node"])
    for name in dynamic(node):
        assert problem(comfyui, node_id, least(node) | {name: "no such choice"}) == ""
        assert problem(comfyui, node_id, least(node) | {name: ""}) == ""
        assert problem(comfyui, node_id, {key: value for key, value in least(node).items() if key != name}) == ""


def test_every_option_of_a_dynamic_combo(comfyui: Any) -> None:
    """The node gets the inputs of the option, none of them, and all but each of them."""
    wrong: dict[tuple[str, str, str], str] = {}
    every = [
        (node_id, name, option)
        for node_id in written_ids()
        for name, options in dynamic(comfyui.pack_nodes[node_id]).items()
        for option in options
    ]
    for node_id, name, option in every:
        whole = least(comfyui.pack_nodes[node_id], {name: option})
        bare = least(comfyui.pack_nodes[node_id], {name: option}, inner=False)
        without = [{key: value for key, value in whole.items() if key != part} for part in whole.keys() - bare.keys()]
        cases = {str(sorted(inputs)): inputs for inputs in (whole, bare, *without)}
        wrong |= {(node_id, option, case): problem(comfyui, node_id, inputs) for case, inputs in cases.items()}
        if node_id == "DEFTTrainAdapter":  # all that these need is in the schema; protocols need weights
            comfyui.run(prompt(node_id, whole), want=["node"])
    assert len(every) >= 12
    assert not {case: text for case, text in wrong.items() if text}


@pytest.mark.parametrize("node_id", written_ids())
def test_an_input_that_is_linked_to_nothing(comfyui: Any, node_id: str) -> None:
    node = comfyui.pack_nodes[node_id]
    types = node.INPUT_TYPES()
    wrong = {}
    for name, spec in (types.get("required", {}) | types.get("optional", {})).items():
        place = f"{name}.{spec[1]['template']['prefix']}0" if kind_of(spec) == GROWING else name
        wrong[name] = problem(comfyui, node_id, least(node) | {place: ["given nothing", 0]})
    assert not {name: text for name, text in wrong.items() if text}


# Nodes with the input that names their files, and what else that needs.
WRITERS: dict[tuple[str, str], dict[str, Any]] = {
    ("DEFTSaveAdapter", "filename_prefix"): {},
    ("DEFTExportLoRA", "filename_prefix"): {},
    ("DEFTSaveScores", "filename_prefix"): {},
    ("DEFTScoreTable", "filename_prefix"): {},
    ("DEFTScoreTable", "append_to"): {},
    ("DEFTFidelityPlot", "filename_prefix"): {"x": "CLIP-I", "y": "DINO"},
    ("DEFTComparisonGrid", "save_pictures"): {},
}


@pytest.mark.parametrize(
    "prefix, text, advice",
    [
        ("a" * 300, "aaaa", "shorter name"),
        ("given file/b", "given file", "choose another"),
        ("a\0b", r"a\x00b", "choose another name"),
        ("a" * 300 + "/b", "aaaa", "shorter name"),
    ],
    ids=["a long name", "a file for a folder", "a zero character", "a long folder"],
)
@pytest.mark.parametrize("writer", WRITERS, ids="-".join)
def test_a_name_that_the_system_refuses(
    comfyui: Any, writer: tuple[str, str], prefix: str, text: str, advice: str
) -> None:
    for folder in (comfyui.base / "output", comfyui.base / "models" / "loras"):
        (folder / "given file").write_bytes(b"")
    node_id, name = writer
    inputs = least(comfyui.pack_nodes[node_id]) | WRITERS[writer] | {name: prefix}
    failed = comfyui.fail(prompt(node_id, inputs), want=["node"])
    assert text in failed.message
    assert advice in failed.message
