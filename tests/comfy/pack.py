"""The pack's modules as ComfyUI loaded them, by their places or by short names, imported when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from . import models

# What tests use often: a module, or module:function.
SHORT = {
    "activation_bytes": "trainers.step.activation_bytes",
    "activations": "patches.activations",
    "adapters": "deft_ops.adapter",
    "apply": "patches.apply:apply",
    "attention": "trainers.step.attention",
    "average": "trainers.step.average",
    "base_weight": "models.base_weights:base_weight",
    "bases": "trainers.step.bases",
    "batches": "trainers.data.batches",
    "by_recipe": "trainers.settings.by_recipe",
    "captions": "trainers.data.captions",
    "checking": "trainers.step.checking",
    "checkpoints": "trainers.run.checkpoints",
    "export": "convert.export:export",
    "extract": "convert.extract:extract",
    "files": "deft_ops.files",
    "fingerprint": "models.fingerprint",
    "foreign": "matching.foreign",
    "formulas": "trainers.settings.formulas",
    "frozen": "trainers.step.frozen",
    "functional": "trainers.step.functional",
    "host": "trainers.step.host",
    "inspect": "convert.inspect:inspect",
    "lora_naming": "convert.lora_naming",
    "loop": "trainers.run.loop",
    "looking": "trainers.step.looking",
    "material": "trainers.data.material",
    "memory": "trainers.step.memory",
    "methods": "deft_ops.methods",
    "modelspec": "deft_ops.modelspec",
    "names": "models.names",
    "native": "deft_ops.files.native",
    "network": "trainers.step.network",
    "objective": "trainers.step.objective",
    "optimizers": "trainers.settings.optimizers",
    "plots": "reports.plots",
    "precision": "trainers.step.precision",
    "previews": "trainers.run.previews",
    "recipes": "trainers.settings.recipes",
    "records": "deft_ops.files.peft_records",
    "repairs": "trainers.step.repairs",
    "reproducible": "trainers.step.reproducible",
    "saved": "trainers.step.saved",
    "saving": "nodes.saving",
    "schedules": "trainers.settings.schedules",
    "settings": "trainers.settings.settings",
    "targets": "trainers.settings.targets",
    "titles": "models.titles",
    "to_lora": "convert.export:to_lora",
    "token": "trainers.run.token",
    "trainer": "trainers.run.trainer",
    "weight_adapter": "patches.weight_adapter",
    "without_inference_features": "trainers.step.inference_only:without_inference_features",
}


class Room:
    """A package of the pack: what it holds, and the modules in it."""

    def __init__(self, module: Callable[[str], ModuleType], place: str) -> None:
        self._module, self._place = module, place

    def __getattr__(self, name: str) -> Any:
        package, place = self._module(self._place), f"{self._place}.{name}"
        value = getattr(package, name) if hasattr(package, name) else self._module(place)
        return Room(self._module, place) if hasattr(value, "__path__") else value


class Pack:
    """pack.trainers.run.loop is that module, pack.loop the same by its short name, pack.apply a function."""

    def __init__(self, comfyui: Any) -> None:
        self.comfyui = comfyui
        self.loras: Path = comfyui.base / "models" / "loras"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in SHORT:
            return Room(self.comfyui.module, name)
        module, _, attribute = SHORT[name].partition(":")
        value = self.comfyui.module(module)
        return getattr(value, attribute) if attribute else value

    def adapter(
        self,
        model: Any,
        names: list[str],
        method: str = "deft",
        shapes: dict[str, tuple] | None = None,
        metadata: dict[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """A random adapter for layers that are named as in the model, or of the given shapes."""
        chosen = dict(shapes or {})
        for name in set(names) - set(chosen):
            chosen[name] = tuple(model.model.state_dict()[f"{name}.weight"].shape)
        ordered = {name: chosen[name] for name in names or chosen}
        return self.adapters.from_layers(models.deft_layers(ordered, self.methods.get(method), **options), metadata)

    def delta(self, adapter: Any, name: str, weight: Tensor, **parts: float) -> Tensor:
        """deft_ops' change of a weight by one layer of an adapter."""
        group = self.adapters.layers(adapter)[name]
        method = self.methods.method_of(group)
        return method.delta(method.from_tensors(group), weight, **parts)
