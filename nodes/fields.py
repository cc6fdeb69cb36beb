"""Widgets of the settings of trainers/settings/settings.py and of the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comfy_api.v0_0_2 import io

from ..deft_ops.methods import Training
from ..deft_ops.settings import WITH_METHOD, Choice, Either, Number, Seed, Setting, Switch, Text, described
from ..trainers.settings.settings import Settings

_SETTINGS = described(Settings)


def widget(name: str, **changed: Any) -> io.WidgetInput:
    """The widget of a setting. changed: what this node has of its own, as step, start and words."""
    setting, default = _SETTINGS[name]
    return widget_of(name, replace(setting, **changed), default)


def widgets(settings: Mapping[str, tuple[Setting, Any]], at: str, later: bool) -> list[io.WidgetInput]:
    """The widgets of a place, in their order: those that were there from the beginning, or those that came later."""
    return [
        widget_of(name, setting, default)
        for name, (setting, default) in settings.items()
        if (setting.at, setting.later) == (at, later)
    ]


def method_widgets(training: Training[Any, Any, Any]) -> list[io.WidgetInput]:
    """The widgets that a method has at Train Adapter."""
    return [
        widget_of(setting.widget(name), setting, default)
        for name, (setting, default) in described(training.settings).items()
        if setting.at == WITH_METHOD
    ]


def widget_of(name: str, setting: Setting, default: Any) -> io.WidgetInput:
    """A setting as ComfyUI has it. Floats are not rounded to steps."""
    more: dict[str, Any] = {"default": default, "tooltip": setting.words}
    if setting.advanced:
        more["advanced"] = True
    if setting.later:
        more["optional"] = True
    match setting:
        case Number():
            high = setting.high if setting.shown is None else setting.shown
            more["default"] = default if setting.start is None else setting.start
            if isinstance(more["default"], int):
                return io.Int.Input(name, min=int(setting.low), max=int(high), **more)
            return io.Float.Input(name, min=float(setting.low), max=float(high), step=setting.step, round=False, **more)
        case Choice():
            return io.Combo.Input(name, options=list(setting.options), **more)
        case Text():
            return io.String.Input(name, multiline=setting.lines, **more)
        case Either():
            more["default"] = setting.on if default else setting.off
            return io.Combo.Input(name, options=[setting.on, setting.off], **more)
        case Switch():
            return io.Boolean.Input(name, **more)
        case Seed():
            return io.Int.Input(
                name, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=io.ControlAfterGenerate.fixed, **more
            )
    raise TypeError(f"{name} has no widget: {setting}")
