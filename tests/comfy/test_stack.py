"""Adapter Stack: files one after the other as by single loaders, LORA_STACK of other packs, trigger words, errors.

What is expected comes from ComfyUI's own Load LoRA, one node a file, or from the formulas of DEFT and PaRa written out.
The readers and writers of other packs are written out from their sources (named where they are).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from . import models
from .pack import Pack
from .test_adapter_nodes import latent, node, sampling, training_prompt
from .test_stacking import PROJECTION, delta, foreign_tensors, random_adapter, same_weights

KEY = f"{PROJECTION}.weight"
Stack = list[tuple[str, float, float]]
Files = dict[str, tuple[str, Any]]


@pytest.fixture(scope="module")
def stack(comfyui_session: Any) -> Any:
    return comfyui_session.pack_nodes["DEFTAdapterStack"]


@pytest.fixture(scope="module")
def files(pack: Pack) -> Iterator[Files]:
    """Files of models/loras by kind, all for one weight of the small SD3: the name, and what is in the file."""
    model = models.sd3()
    folder = pack.loras / "stack"
    folder.mkdir()
    saved: Files = {}
    for seed, label in enumerate(("qr", "para", "lora")):
        adapter = random_adapter(pack, label, [PROJECTION], model, seed=10 + 20 * seed)
        pack.native.write(adapter, folder / f"{label}.safetensors", {"modelspec.trigger_phrase": f"{label} word"})
        saved[label] = (f"stack/{label}.safetensors", adapter)
    for seed, kind in enumerate(("loha", "lokr")):
        tensors, change = foreign_tensors(kind, 64, 64, 100 + 20 * seed)
        save_file(
            {f"{PROJECTION}.{suffix}": value.contiguous() for suffix, value in tensors.items()},
            folder / f"{kind}.safetensors",
        )
        saved[kind] = (f"stack/{kind}.safetensors", change)
    yield saved
    for path in sorted(folder.iterdir()):
        path.unlink()
    folder.rmdir()


def rows(*items: tuple[Any, ...]) -> dict[str, Any]:
    """The widgets of rows from the top: file, strength, on."""
    names = ("file", "strength", "on")
    return {f"{name}_{number}": value for number, item in enumerate(items, start=1) for name, value in zip(names, item)}


def one_by_one(model: Any, chosen: list[tuple[str, float]]) -> Any:
    """The model behind one of ComfyUI's own Load LoRA for each file."""
    import nodes

    for file, strength in chosen:
        model = nodes.LoraLoaderModelOnly().load_lora_model_only(model, file, strength)[0]
    return model


# ------------------------------------------------------------------------------------------------------------ applying


@pytest.mark.parametrize(
    "order",
    [
        ("qr", "para"),
        ("para", "qr"),
        ("lora", "qr", "loha", "para", "lokr"),
        ("lokr", "para", "lora", "qr", "loha"),
        ("qr", "qr"),
    ],
    ids="+".join,
)
def test_rows_are_applied_one_after_the_other(stack: Any, files: Files, order: tuple[str, ...]) -> None:
    model = models.sd3()
    base = models.weights(model)
    strengths = [0.8, -0.5, 1.5, 1.0, 0.3]
    chosen = [(files[label][0], strength) for label, strength in zip(order, strengths)]
    patched, clip, given, _, report = stack.execute(model, **rows(*chosen)).result
    expected = models.patched_weights(one_by_one(model, chosen))[KEY]
    assert models.relative(models.patched_weights(patched)[KEY], expected) < 1e-6
    assert models.relative(expected, base[KEY]) > 1e-3
    if set(order) != {order[0]}:
        other = models.patched_weights(one_by_one(model, chosen[::-1]))[KEY]
        assert models.relative(other, expected) > 1e-3  # the order is told apart
    assert clip is None
    assert same_weights(model, base)
    assert given == [(file, strength, strength) for file, strength in chosen]
    starts = [f"Row {number}: {file}: 1 layers applied (1 " for number, (file, _) in enumerate(chosen, start=1)]
    assert [line[: len(start)] for line, start in zip(report.splitlines()[::2], starts)] == starts


@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
@pytest.mark.parametrize("order", [("qr", "para"), ("para", "qr")], ids="+".join)
def test_stacking_is_that_of_apply_adapter(stack: Any, files: Files, order: tuple[str, ...], stacking: str) -> None:
    """W1 = W + s1 delta1(W), then W1 + s2 delta2(W1); with from_base W1 + s2 delta2(W). In float64."""
    model = models.sd3()
    base = models.weights(model)[KEY].double()
    one, two = (files[label][1] for label in order)
    first = base + 0.8 * delta(one, PROJECTION, base)
    seen = first if stacking == "sequential" else base
    expected = first + 0.6 * delta(two, PROJECTION, seen)
    chosen = rows(*((files[label][0], strength) for label, strength in zip(order, (0.8, 0.6))))
    patched = stack.execute(model, **chosen, stacking=stacking).result[0]
    assert models.relative(models.patched_weights(patched)[KEY], expected) < 1e-6


def test_on_activations(stack: Any, files: Files) -> None:
    model = models.sd3()
    chosen = rows(*((files[label][0], 0.7) for label in ("qr", "para", "lora")))
    outputs = [
        models.network_output(stack.execute(model, **chosen, mode=mode).result[0])
        for mode in ("weights", "activations")
    ]
    assert models.relative(outputs[1], outputs[0]) < 1e-4
    assert models.relative(models.network_output(model), outputs[0]) > 1e-3
    with pytest.raises(ValueError, match=r"^Row 2: Layers of .* \(loha\) cannot work on activations"):
        stack.execute(model, **rows((files["qr"][0],), (files["loha"][0],)), mode="activations")


def test_rows_that_are_off_or_empty_are_left_out(stack: Any, files: Files) -> None:
    model = models.sd3()
    qr, para = files["qr"][0], files["para"][0]
    chosen = rows((qr, 1.0, False), ("None", 1.0, True), (para, 0.5, True), ("gone.safetensors", 1.0, False))
    patched, _, given, words, report = stack.execute(model, **chosen).result
    expected = models.patched_weights(one_by_one(model, [(para, 0.5)]))[KEY]
    assert torch.equal(models.patched_weights(patched)[KEY], expected)
    assert given == [(para, 0.5, 0.5)]
    assert words == "para word"
    assert report.startswith("Row 3: ")
    assert "Row 1" not in report
    assert "Row 4" not in report


def test_strength_zero_is_the_base_and_keeps_its_words(stack: Any, files: Files) -> None:
    """Pictures over a series of strengths then have the same prompt."""
    model = models.sd3()
    patched, _, given, words, _ = stack.execute(model, **rows((files["qr"][0], 0.0))).result
    assert torch.equal(models.patched_weights(patched)[KEY], models.weights(model)[KEY])
    assert given == [(files["qr"][0], 0.0, 0.0)]
    assert words == "qr word"


def test_nothing_on_gives_back_what_came(stack: Any) -> None:
    model = models.sd3()
    assert stack.execute(model).result == (model, None, [], "", "No file is on.")


def test_clip(comfyui: Any, pack: Pack, stack: Any, files: Files) -> None:
    """The strength of a row is that of both; a file of the text encoder alone needs the CLIP."""
    import nodes

    run = comfyui.run({"clip": node("DEFTDemoTextEncoder")}, want=["clip"])
    clip = run.output("clip")
    state = clip.patcher.model.state_dict()
    key = next(key for key, value in state.items() if key.endswith(".weight") and value.ndim == 2 and "layers" in key)
    target = f"text_encoders.{key.removesuffix('.weight')}"
    rows_, columns = state[key].shape
    up, down = models.random(rows_, 2, seed=1), models.random(2, columns, seed=2)
    path = pack.loras / "stack" / "text.safetensors"
    save_file({f"{target}.lora_up.weight": up, f"{target}.lora_down.weight": down}, path)
    try:
        _, changed, given, _, report = stack.execute(None, clip, **rows(("stack/text.safetensors", 0.5))).result
        _, by_core = nodes.LoraLoader().load_lora(None, clip, "stack/text.safetensors", 0.0, 0.5)
        assert changed.patcher.patches.keys() == by_core.patcher.patches.keys() == {key}
        weight = changed.patcher.patches[key]
        assert [patch[0] for patch in weight] == [patch[0] for patch in by_core.patcher.patches[key]] == [0.5]
        assert given == [("stack/text.safetensors", 0.5, 0.5)]
        assert "1 layers applied" in report
        with pytest.raises(ValueError, match=r"^Row 2: All layers of stack/text\.safetensors .*connect the CLIP"):
            stack.execute(models.sd3(), **rows((files["qr"][0],), ("stack/text.safetensors",)))
    finally:
        path.unlink()


# ---------------------------------------------------------------------------------------------- LORA_STACK of others


def comfyroll_stack(switches: list[tuple[str, str, float, float]], lora_stack: Stack | None = None) -> Stack:
    """CR LoRA Stack of ComfyUI_Comfyroll_CustomNodes (nodes/nodes_lora.py)."""
    lora_list: Stack = []
    if lora_stack is not None:
        lora_list.extend([entry for entry in lora_stack if entry[0] != "None"])
    for switch, name, model_weight, clip_weight in switches:
        if name != "None" and switch == "On":
            lora_list.extend([(name, model_weight, clip_weight)])
    return lora_list


def comfyroll_apply(model: Any, clip: Any, lora_stack: Stack) -> tuple[Any, Any]:
    """CR Apply LoRA Stack of ComfyUI_Comfyroll_CustomNodes; Efficiency, Easy-Use and ttN read the same three values."""
    import comfy.sd
    import comfy.utils
    import folder_paths

    for entry in lora_stack:
        lora_name, strength_model, strength_clip = entry
        lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", lora_name), safe_load=True)
        model, clip = comfy.sd.load_lora_for_models(model, clip, lora, strength_model, strength_clip)
    return model, clip


def test_round_trip_with_another_pack(stack: Any, files: Files) -> None:
    """Comfyroll's stack in, ours out, and its reader does with that what this node has done."""
    model = models.sd3()
    theirs = comfyroll_stack(
        [("On", files["lora"][0], 0.7, 0.2), ("Off", files["loha"][0], 1.0, 1.0), ("On", files["para"][0], 0.5, 0.5)]
    )
    given = stack.execute(model, None, theirs, **rows((files["qr"][0], 0.9))).result
    assert given[2] == [*theirs, (files["qr"][0], 0.9, 0.9)]
    expected = models.patched_weights(comfyroll_apply(model, None, given[2])[0])[KEY]
    assert models.relative(models.patched_weights(given[0])[KEY], expected) < 1e-6
    first = models.patched_weights(comfyroll_apply(model, None, [given[2][2], *theirs])[0])[KEY]
    assert models.relative(first, expected) > 1e-3  # what came in goes first
    assert given[3] == "lora word, para word, qr word"
    assert [line.partition(":")[0] for line in given[4].splitlines()[::2]] == [
        "Entry 1 of lora_stack",
        "Entry 2 of lora_stack",
        "Row 1",
    ]
    assert comfyroll_stack([("On", files["loha"][0], 1.0, 1.0)], given[2])[:3] == given[2]


def test_forms_that_other_packs_pass_on(pack: Pack, stack: Any, files: Files) -> None:
    """Whole paths (of LoRA Manager), lists for tuples, stacks in a stack, one strength, Windows' separators, no file.

    The stack that goes out has names that every reader finds.
    """
    qr, para, lora, loha = (files[label][0] for label in ("qr", "para", "lora", "loha"))
    theirs = [
        [str(pack.loras / qr), 1, 0],
        [[(para, 0.5)], [[lora, 0.25, -1.0]], []],
        ("None", 1.0, 1.0),
        ("", 1.0, 1.0),
        (loha.replace("/", "\\"), 2.0, 2.0),
    ]
    given = stack.execute(None, None, theirs).result
    names = [qr, para, lora, loha if sys.platform != "win32" else loha.replace("/", "\\")]
    assert given[2] == list(zip(names, (1.0, 0.5, 0.25, 2.0), (0.0, 0.5, -1.0, 2.0)))
    assert all(type(value) is float for entry in given[2] for value in entry[1:])
    comfyroll_apply(models.sd3(), None, given[2])


def test_without_a_model_only_the_stack_and_the_words(stack: Any, files: Files) -> None:
    model, clip, given, words, report = stack.execute(**rows((files["qr"][0], 0.5), (files["loha"][0],))).result
    assert model is None
    assert clip is None
    assert words == "qr word"
    assert given == [(files["qr"][0], 0.5, 0.5), (files["loha"][0], 1.0, 1.0)]
    assert report.count("not applied: there is no model") == 2


NONSENSE: dict[str, tuple[Any, str]] = {
    "a dictionary": ({"name": "a"}, r"Entry 1 of lora_stack cannot be read: \{'name': 'a'\}"),
    "names alone": (["a.safetensors", "b.safetensors"], r"Entry 1 .*\['a\.safetensors', 'b\.safetensors'\]"),
    "a name": ("a.safetensors", "Entry 1 .*'a.safetensors'"),
    "no strength": ([("a.safetensors",)], "Entry 1 "),
    "a fourth value": ([("a.safetensors", 1.0, 1.0, "blocks")], "Entry 1 .*'blocks'"),
    "a word for a strength": ([("None", 1.0, 1.0), ("a.safetensors", "strong", 1.0)], "Entry 2 .*'strong'"),
    "no number": ([("a.safetensors", math.nan, 1.0)], "Entry 1 .*nan"),
    "a truth": ([("a.safetensors", True, 1.0)], "Entry 1 .*True"),
    "a number": ([7], "Entry 1 .*: 7"),
    "a missing file": ([("a.safetensors", 1.0, 1.0)], r"Entry 1 .*: There is no adapter file 'a\.safetensors' in"),
    "a file elsewhere": ([("/etc/hostname", 1.0, 1.0)], r"Entry 1 .*: There is no adapter file '/etc/hostname' in"),
    "a way out": ([("../../x.safetensors", 1.0, 1.0)], r"Entry 1 .*: There is no adapter file '\.\./\.\./x"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_no_stack_is_refused_by_its_place(stack: Any, name: str) -> None:
    value, message = NONSENSE[name]
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{message}"):
        stack.execute(models.sd3(), None, value)


# ---------------------------------------------------------------------------------------------------- words and errors


def test_words_come_each_once_in_the_order_of_the_files(pack: Pack, stack: Any, files: Files) -> None:
    record = pack.loras / "stack" / "lora.metadata.json"
    record.write_text(json.dumps({"civitai": {"trainedWords": ["sks dog, QR WORD", "on grass"]}}))
    chosen = rows((files["para"][0],), (files["qr"][0],), (files["lora"][0],), (files["loha"][0],))
    try:
        words, report = stack.execute(**chosen).result[3:]
    finally:
        record.unlink()
    assert words == "para word, qr word, sks dog, on grass"
    assert "trigger words: sks dog, QR WORD, on grass (lora.metadata.json)" in report
    assert "trigger words: para word (modelspec.trigger_phrase)" in report
    assert "trigger words: none in the file or beside it" in report


def test_a_file_that_fits_nothing_is_an_error_of_its_row(pack: Pack, stack: Any, files: Files) -> None:
    path = pack.loras / "stack" / "other.safetensors"
    save_file({"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)}, path)
    try:
        with pytest.raises(ValueError, match=r"^Row 3: No layer of stack/other\.safetensors fits .*lora_unet_x"):
            stack.execute(models.sd3(), **rows((files["qr"][0],), ("None",), ("stack/other.safetensors",)))
        path.write_bytes(b"no tensors")
        with pytest.raises(ValueError, match=r"^Row 1: .*other\.safetensors is not a readable safetensors file"):
            stack.execute(**rows(("stack/other.safetensors",)))
    finally:
        path.unlink()


# ------------------------------------------------------------------------------------------ through ComfyUI's executor


@pytest.fixture
def demo_files(comfyui: Any, pack: Pack) -> Iterator[list[str]]:
    """A DEFT and a PaRa file for the demo's denoiser."""
    run = comfyui.run({"model": training_prompt()["model"]}, want=["model"])
    paths = []
    for seed, label in enumerate(("qr", "para")):
        adapter = random_adapter(pack, label, [PROJECTION], run.output("model"), seed=10 + 20 * seed)
        paths.append(pack.native.write(adapter, pack.loras / f"stack_{label}.safetensors"))
    yield [path.name for path in paths]
    for path in paths:
        path.unlink(missing_ok=True)


def stacked(**inputs: Any) -> dict[str, Any]:
    """The node on the demo's model."""
    return node("DEFTAdapterStack", model=["model", 0], **inputs)


def test_in_a_prompt_as_a_chain_of_load_lora(comfyui: Any, demo_files: list[str]) -> None:
    """All widgets, as the page sends them, and only those that are needed, as a person writes them."""
    first, second = demo_files
    whole = {
        **rows(
            (first, 0.7, True),
            (second, 1.2, True),
            ("None", 1.0, True),
            ("None", 1.0, True),
            ("gone.safetensors", 1.0, False),
        ),
        "stacking": "sequential",
        "mode": "weights",
    }
    prompt = training_prompt() | {
        "whole": stacked(**whole),
        **sampling(["whole", 0], "ours"),
        "short": stacked(file_1=first, strength_1=0.7, file_2=second, strength_2=1.2),
        **sampling(["short", 0], "brief"),
        "one": node("LoraLoaderModelOnly", model=["model", 0], lora_name=first, strength_model=0.7),
        "two": node("LoraLoaderModelOnly", model=["one", 0], lora_name=second, strength_model=1.2),
        **sampling(["two", 0], "theirs"),
        **sampling(["model", 0], "base"),
        "behind": stacked(lora_stack=["whole", 2]),
        **sampling(["behind", 0], "again"),
    }
    run = comfyui.run(prompt, want=["ours", "brief", "theirs", "base", "again"])
    assert all(torch.equal(latent(run, key), latent(run, "theirs")) for key in ("ours", "brief", "again"))
    assert models.relative(latent(run, "theirs"), latent(run, "base")) > 1e-3


def test_a_missing_file_fails_at_its_row(comfyui: Any) -> None:
    failed = comfyui.fail({"model": training_prompt()["model"], "it": stacked(file_2="gone.safetensors")}, want=["it"])
    assert (failed.node_type, failed.stage, failed.kind) == ("DEFTAdapterStack", "execution", "FileNotFoundError")
    assert failed.message.startswith("Row 2: There is no adapter file 'gone.safetensors' in models/loras: put it there")


def test_it_runs_again_when_a_file_or_its_record_changes(comfyui: Any, demo_files: list[str]) -> None:
    first, second = demo_files
    loras = comfyui.base / "models" / "loras"
    record = loras / f"{Path(first).stem}.civitai.info"
    prompt = {"model": training_prompt()["model"], "it": stacked(file_1=first, file_2=second, on_2=False)}

    def output() -> Tensor:
        return comfyui.run(prompt, want=["it"]).output("it")

    before = output()
    assert output() is before
    (loras / second).unlink()  # of a row that is off
    assert output() is before
    try:
        record.write_text('{"trainedWords": ["sks"]}')
        after = output()
        assert after is not before
        assert comfyui.run(prompt, want=["it"]).output("it", 3) == "sks"
        record.write_text('{"trainedWords": ["sks", "dog"]}')
        assert comfyui.run(prompt, want=["it"]).output("it", 3) == "sks, dog"
    finally:
        record.unlink()
    after = output()
    save_file({f"{PROJECTION}.deft_Q": torch.eye(192)[:, :3].contiguous()}, loras / first)
    assert output() is not after
