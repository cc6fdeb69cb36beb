"""The list of training settings: one range for check and widget, and what a later entry does to saved things."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest


@pytest.fixture
def modules(comfyui: Any) -> dict[str, Any]:
    names = ("trainers.settings.settings", "trainers.settings.fields", "nodes.fields")
    return {name: comfyui.module(name) for name in names}


def test_check_and_widget_have_one_range(modules: dict[str, Any]) -> None:
    settings, fields, nodes = modules.values()
    start = settings.Settings("deft", 4, 10, 1e-3)
    start.check()
    limited = 0
    for name, (setting, default) in fields.described(settings.Settings).items():
        shown = nodes.widget_of(name, setting, default)
        assert shown.tooltip == setting.words, name
        assert bool(shown.advanced) == setting.advanced, name
        if isinstance(setting, fields.Number):
            assert shown.min == setting.low, name
            assert shown.max == min(setting.high, setting.shown or setting.high), name
            for value in (shown.min, shown.max, shown.default):
                replace(start, **{name: value}).check()
            wrong = [setting.low - 1] + ([setting.high + 1] if setting.shown is None else [])
            for value in wrong:
                with pytest.raises(ValueError, match=f"The setting {name} must be from "):
                    replace(start, **{name: value}).check()
            limited += 1
        elif isinstance(setting, fields.Choice):
            assert shown.options == list(setting.options)
            with pytest.raises(ValueError, match="^Unknown .* 'nothing': choose one of "):
                replace(start, **{name: "nothing"}).check()
    assert limited == 23


def test_every_setting_has_its_place(comfyui: Any, modules: dict[str, Any]) -> None:
    """At Train Adapter, with a method there, or at Training Settings: once, with its default."""
    settings, fields, _ = modules.values()
    nodes = {
        name: node.GET_NODE_INFO_V1()["input"]["required"]
        for name, node in comfyui.pack_nodes.items()
        if name in ("DEFTTrainAdapter", "DEFTTrainingSettings")
    }
    methods = [option["inputs"]["required"] for option in nodes["DEFTTrainAdapter"]["method"][1]["options"]]
    own = {name for option in methods for name in option} - {"projector", "start", "keep_decomposition"}
    for name, (setting, default) in fields.described(settings.Settings).items():
        place = {fields.TRAINING: "DEFTTrainAdapter", fields.MORE: "DEFTTrainingSettings"}.get(setting.at)
        assert (place is None) == (name in own), name
        if place is not None:
            start = getattr(setting, "start", None)
            assert nodes[place][name][1]["default"] == (default if start is None else start), name
    assert own == {"rank", "alpha", "rank_cap", "norm_rate"}


def test_what_came_later_leaves_the_rest_as_it_is(modules: dict[str, Any]) -> None:
    settings, fields, nodes = modules.values()

    @dataclass(frozen=True)
    class More(settings.Settings):  # type: ignore[name-defined,misc]
        new: float = fields.entry(fields.Number(words="New.", high=1.0, later=True), 0.5)
        last: str = fields.entry(fields.Text(words="Old."), "")

    old, plain = settings.Settings("deft", 4, 10, 1e-3), More("deft", 4, 10, 1e-3)
    assert plain.identity() == old.identity() | {"last": ""}
    assert replace(plain, new=0).identity()["new"] == 0
    assert [item.id for item in nodes.widgets(More, fields.MORE, later=True)] == ["new"]
    (widget,) = nodes.widgets(More, fields.MORE, later=True)
    assert widget.optional
    assert widget.max == 1.0
    names = [item.id for item in nodes.widgets(More, fields.MORE, later=False)]
    assert names[:2] == ["optimizer", "schedule"]
    assert names[-2:] == ["adapter_precision", "last"]
    assert list(fields.described(More))[-1] == "new"


def test_a_range_stands_once(modules: dict[str, Any]) -> None:
    number = modules["trainers.settings.fields"].Number
    for more in ({}, {"high": 1.0, "shown": 2.0}):
        with pytest.raises(AssertionError):
            number(words="", **more)
