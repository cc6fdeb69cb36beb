"""The list of training settings: one range for check and widget, and what a later entry does to saved things."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from .pack import Pack


def test_check_and_widget_have_one_range(pack: Pack) -> None:
    settings, fields, nodes = pack.settings, pack.deft_ops.settings, pack.nodes.fields
    start = settings.Settings("deft", 4, 10, 1e-3)
    start.check()
    limited = 0
    for name, (setting, default) in (fields.described(settings.Settings) | settings.shared_settings()).items():
        shown = nodes.widget_of(name, setting, default)
        assert shown.tooltip == setting.words, name
        assert bool(shown.advanced) == setting.advanced, name
        if isinstance(setting, fields.Number):
            assert shown.min == setting.low, name
            assert shown.max == min(setting.high, setting.shown or setting.high), name
            for value in (shown.min, shown.max, shown.default):
                start.changed(**{name: value}).check()
            wrong = [setting.low - 1] + ([setting.high + 1] if setting.shown is None else [])
            for value in wrong:
                with pytest.raises(ValueError, match=f"The setting {name} must be from "):
                    start.changed(**{name: value}).check()
            limited += 1
        elif isinstance(setting, fields.Choice):
            assert shown.options == list(setting.options)
            with pytest.raises(ValueError, match="^Unknown .* 'nothing': choose one of "):
                start.changed(**{name: "nothing"}).check()
    assert limited >= 23


def test_textual_inversion_has_one_range(comfyui: Any, pack: Pack) -> None:
    """The number of vectors, at the node and for a caller without one."""
    make = pack.settings.Settings.of
    shown = comfyui.pack_nodes["DEFTTrainTextualInversion"].GET_NODE_INFO_V1()["input"]["required"]["vectors"][1]
    for count in (shown["min"], shown["max"]):
        make("textual_inversion", 1, 1, 1e-3, vectors=count).check()
    for count in (shown["min"] - 1, shown["max"] + 1):
        with pytest.raises(ValueError, match="The setting vectors must be from 1 to 64"):
            make("textual_inversion", 1, 1, 1e-3, vectors=count).check()
    with pytest.raises(ValueError, match="The method textual_inversion has no setting 'projector': it has token, "):
        make("textual_inversion", 1, 1, 1e-3, projector="qr").check()


def test_every_setting_has_its_place(comfyui: Any, pack: Pack) -> None:
    """Each is at Train Adapter, with a method there, or at Training Settings: once, with its default."""
    settings, fields = pack.settings, pack.deft_ops.settings
    methods = pack.methods
    nodes = {
        name: node.GET_NODE_INFO_V1()["input"]["required"] | node.GET_NODE_INFO_V1()["input"].get("optional", {})
        for name, node in comfyui.pack_nodes.items()
        if name in ("DEFTTrainAdapter", "DEFTTrainingSettings")
    }
    options = {item["key"]: item["inputs"]["required"] for item in nodes["DEFTTrainAdapter"]["method"][1]["options"]}
    assert list(options) == list(methods.TRAINABLE)
    # One widget alone makes the front end 1.47 lose the last widget of the node.
    assert [method for method, inputs in options.items() if len(inputs) == 1] == []
    places = {fields.TRAINING: nodes["DEFTTrainAdapter"], fields.MORE: nodes["DEFTTrainingSettings"]}
    for name, (setting, default) in fields.described(settings.Settings).items():
        if setting.at == fields.WITH_METHOD:
            assert any(name in inputs for inputs in options.values()), name
            continue
        start = getattr(setting, "start", None)
        assert places[setting.at][name][1]["default"] == (default if start is None else start), name
    for method, inputs in options.items():
        own = fields.described(methods.training_of(method).settings)
        shown = {key for key, (setting, _) in own.items() if setting.at == fields.WITH_METHOD}
        assert [own[key][0].widget(key) for key in own if key in shown] == list(inputs), method
        for key in own.keys() - shown:
            assert places[own[key][0].at][key][1]["default"] == own[key][1], key


def test_a_widget_means_the_setting(pack: Pack) -> None:
    """What is chosen at the node, as the method gets it."""
    training = pack.nodes.training.chosen_method
    make = pack.settings.Settings.of
    chosen = training({"method": "deft", "rank": 3, "alpha": 0.0, "projector": "ppt", "start": "paper"})
    own = make(**chosen, steps=1, learning_rate=1.0, p_rate=0.5).own
    assert vars(own) == {"rank": 3, "alpha": None, "projector": "ppt", "identity": False, "p_rate": 0.5}
    own = make(**training(chosen | {"start": "identity", "alpha": 2.0}), steps=1, learning_rate=1.0).own
    assert own.identity is True
    assert own.alpha == 2.0
    with pytest.raises(ValueError, match="The method lora has no setting 'projector': it has rank, alpha, "):
        make("lora", 1, 1, 1.0, projector="qr").check()


def test_a_name_means_the_same_in_every_method(pack: Pack) -> None:
    """Methods' own settings lie in one record by their names."""
    fields, methods = pack.deft_ops.settings, pack.methods
    seen: dict[str, Any] = {}
    for name in methods.TRAINABLE:
        for key, pair in fields.described(methods.training_of(name).settings).items():
            assert seen.setdefault(key, pair) == pair, (name, key)


def test_a_run_is_known_by_what_changes_its_result(pack: Pack) -> None:
    """The record of a run, which older runs are found by: as it was when all settings were every run's."""
    make = pack.settings.Settings.of
    record = make("svdiff", 1, 5, 1e-3, keep_decomposition=False, norm_rate=0.1).identity()
    assert (record["norm_rate"], record["p_rate"], record["rank_cap"], record["options"]) == (0.1, 1.0, 0.0, {})
    record = make("deft", 4, 5, 1e-3, projector="relu", p_rate=0.5, options={"identity": False}).identity()
    assert record["p_rate"] == 0.5
    assert record["options"] == {"projector": "relu", "identity": False}


def test_a_run_goes_on_with_more_steps_where_its_schedule_does_not_use_them(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule's record decides, whatever it is called."""
    make, schedules = pack.settings.Settings.of, pack.schedules
    halved = schedules.RateSchedule("half of it", lambda done, cycles: 0.5, uses_steps=False)
    monkeypatch.setitem(schedules.SCHEDULES, "halved", halved)
    for name, record in schedules.SCHEDULES.items():
        short, long = (make("lora", 4, steps, 1e-3, schedule=name).identity() for steps in (10, 20))
        assert (short == long) == (name in ("constant", "halved")), name
        factors = [schedules.rate_factor(name, 5, steps, 2, 2) for steps in (10, 20)]
        assert (factors[0] == factors[1]) == (not record.uses_steps), name


def test_what_came_later_leaves_the_rest_as_it_is(pack: Pack) -> None:
    settings, fields, nodes = pack.settings, pack.deft_ops.settings, pack.nodes.fields

    @dataclass(frozen=True)
    class More(settings.Settings):  # type: ignore[name-defined,misc]
        new: float = fields.entry(fields.Number(words="New.", high=1.0, later=True), 0.5)
        last: str = fields.entry(fields.Text(words="Old."), "")

    old, plain = settings.Settings("deft", 4, 10, 1e-3), More("deft", 4, 10, 1e-3)
    assert plain.identity() == old.identity() | {"last": ""}
    assert replace(plain, new=0).identity()["new"] == 0
    *_, widget = nodes.widgets(fields.described(More), fields.MORE, later=True)
    assert widget.id == "new"
    assert widget.optional
    assert widget.max == 1.0
    names = [item.id for item in nodes.widgets(fields.described(More), fields.MORE, later=False)]
    assert names[:2] == ["optimizer", "schedule"]
    assert names[-2:] == ["adapter_precision", "last"]
    assert list(fields.described(More))[-1] == "new"


def test_a_range_stands_once(pack: Pack) -> None:
    number = pack.deft_ops.settings.Number
    for more in ({}, {"high": 1.0, "shown": 2.0}):
        with pytest.raises(AssertionError):
            number(words="", **more)
