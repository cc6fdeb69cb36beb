"""What generated files are made from and how they are written; make_generated.py has the list of them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_server import ROOT, ComfyServer, find_comfyui

_Words = dict[str, dict[str, dict[str, str]]]  # by node, input and option: what the option is


@dataclass(frozen=True)
class Pack:
    """What ComfyUI says of the pack's nodes (/object_info), new id by old one of replaced nodes, words of options."""

    nodes: Mapping[str, Any]
    replaced: Mapping[str, str]
    words: _Words


def option_words(module: Callable[[str], Any]) -> _Words:
    """The descriptions of options of inputs, from the pack's lists. module: a module of the pack by its name."""
    protocols, metrics = module("scoring.protocols").PROTOCOLS, module("scoring.metrics").METRICS
    presets, efforts = module("trainers.settings.presets").PRESETS, module("trainers.settings.by_recipe").HOW
    methods, forms = module("deft_ops.methods"), module("reports.tables").FORMS
    settings = module("deft_ops.settings")
    abouts = {name: metric.about for name, metric in metrics.items()}
    projectors = dict(module("deft_ops.projectors").READ_PROJECTORS)
    return {
        "DEFTAdapterLoader": {"projector": projectors},
        "DEFTLoadAdapterFile": {"projector": projectors},
        "DEFTLoadScorer": {
            "protocol": {name: protocol.about for name, protocol in protocols.items()}
            | {"custom": "models of your choice"}
        },
        "DEFTFidelityPlot": {"x": abouts},
        "DEFTExportLoRA": {"naming": dict(module("convert.lora_naming").NAMINGS)},
        "DEFTSaveAdapter": {"format": dict(module("nodes.saving").FORMAT_WORDS)},
        "DEFTScoreTable": {
            "filename_prefix": {f".{suffix}": str(inspect.getmodule(form).__doc__) for suffix, form in forms.items()}
            | {".jsonl": "every score with all of its settings, one JSON object per line"}
        },
        "DEFTTrainAdapter": {
            "method": {name: methods.training_of(name).words for name in methods.TRAINABLE},
            **table_words(module, settings.TRAINING),
        },
        "DEFTTrainingSettings": {
            "preset": {name: preset.source for name, preset in presets.items()},
            **table_words(module, settings.MORE),
        },
        "DEFTTrainingRecipe": {"how": {name: effort.words for name, effort in efforts.items()}},
    }


def table_words(module: Callable[[str], Any], place: str) -> dict[str, dict[str, str]]:
    """The words of the options of each training setting that a table has, by the setting. place: of the widgets."""
    described = module("deft_ops.settings").described(module("trainers.settings.settings").Settings)
    return {
        name: {
            option: record if isinstance(record, str) else record.words for option, record in setting.options.items()
        }
        for name, (setting, _) in described.items()
        if setting.at == place and isinstance(getattr(setting, "options", None), Mapping)
    }


def ask() -> Pack:
    """The pack as a server of its own has it."""
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        nodes = {
            name: info
            for name, info in server.get("/object_info").items()
            if info["python_module"] == f"custom_nodes.{server.pack_name}"
        }
        replaced = {
            item["old_node_id"]: item["new_node_id"]
            for items in server.get("/node_replacements").values()
            for item in items
            if item["new_node_id"] in nodes
        }
    # ComfyUI's modules are imported by a process of their own: they want its options and change what torch does.
    command = [sys.executable, __file__, "--cpu"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(find_comfyui()), os.environ.get("PYTHONPATH", "")])}
    words = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return Pack(nodes, replaced, json.loads(words.splitlines()[-1]))


def changed(texts: Mapping[Path, str]) -> list[Path]:
    """The files whose text on disk is different."""
    return [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def write(texts: Mapping[Path, str]) -> None:
    """Write the files whose text is another, each whole or not at all."""
    for path in changed(texts):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(texts[path], encoding="utf-8")
        os.replace(part, path)
        print(f"[generated] wrote {path.relative_to(ROOT)}")


def _print_words() -> None:
    """The process that ask() starts."""
    import comfy.options

    comfy.options.enable_args_parsing()
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules["pack"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    print(json.dumps(option_words(lambda name: importlib.import_module(f"pack.{name}"))))


if __name__ == "__main__":
    _print_words()
