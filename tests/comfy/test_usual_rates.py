"""When a learning rate is far from those that a method was published with, and what is then said."""

from __future__ import annotations

from typing import Any

import pytest

from deft_pack.deft_ops import methods
from deft_pack.trainers.settings.optimizers import OPTIMIZERS
from deft_pack.trainers.settings.presets import PRESETS, with_preset
from deft_pack.trainers.settings.settings import Settings
from deft_pack.trainers.settings.textual_inversion import TEXTUAL_INVERSION
from deft_pack.trainers.settings.usual_rates import far_from_usual

from .conftest import ROOT

RATES = {name: usual for name in methods.TRAINABLE if (usual := methods.training_of(name).usual_rates) is not None}
GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def text(method: str, rate: float, **values: Any) -> str:
    return far_from_usual(Settings.of(method, 4, 10, rate, **values))


@pytest.mark.parametrize(
    ("method", "rate", "expected"),
    [
        (
            "dreambooth",
            1e-4,
            "learning rate 1e-4 is 40 times the usual one for dreambooth (2.5e-6, DreamBench++)",
        ),
        (
            "svdiff",
            1e-4,
            "learning rate 1e-4 is 10 times below the usual one for svdiff (1e-3, svdiff-pytorch)",
        ),
        (
            "deft",
            1e-2,
            "learning rate 1e-2 is 10 times the usual one for deft "
            "(5e-5 to 1e-3, DEFT's repository for SDXL and OmniGen)",
        ),
        ("dreambooth", 2.4e-5, ""),
        ("svdiff", 1.1e-4, ""),
        ("deft", 9.9e-3, ""),
        ("lora", 0.0, ""),
        (TEXTUAL_INVERSION, 1.0, ""),
    ],
)
def test_ten_times_off_is_a_text(method: str, rate: float, expected: str) -> None:
    assert text(method, rate) == expected


def test_the_pack_s_methods_have_their_rates() -> None:
    assert {"deft", "para", "lora", "dora", "oft", "lokr", "svdiff", "dreambooth"} <= {*RATES}


@pytest.mark.parametrize("method", RATES)
def test_the_bounds_of_each_method(method: str) -> None:
    usual = RATES[method]
    assert 0 < usual.lowest <= usual.highest < 1
    assert usual.source
    assert not text(method, usual.lowest)
    assert not text(method, usual.highest)
    assert text(method, usual.highest * 10)
    assert text(method, usual.lowest / 10)


@pytest.mark.parametrize("method", [name for name in RATES if name not in ("svdiff", "dreambooth")])
def test_the_widget_s_default_is_usual(method: str) -> None:
    assert not text(method, 1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_usual(name: str) -> None:
    assert not far_from_usual(with_preset(Settings.of(PRESETS[name].method, 4, 10, 1e-4), name))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_s_own_scale_counts(name: str) -> None:
    """Prodigy wants 1 with every method, Lion a fifth."""
    scale = OPTIMIZERS[name].to_adamw
    if scale is None:
        assert not text("lora", 1.0, optimizer=name)
        return
    assert text("dreambooth", 2.5e-5 * scale, optimizer=name)
    assert not text("dreambooth", 2.4e-5 * scale, optimizer=name)


def test_lion_is_named() -> None:
    assert text("svdiff", 2e-3, optimizer="Lion").endswith(
        "is 10 times the usual one for svdiff with Lion (2e-4, svdiff-pytorch)"
    )


def test_prodigy_is_not_compared() -> None:
    assert OPTIMIZERS["Prodigy"].to_adamw is None


@pytest.mark.parametrize("method", RATES)
def test_the_guide_has_the_same_numbers(method: str) -> None:
    usual = RATES[method]
    (row,) = [line for line in GUIDE.splitlines() if line.startswith("| `") and f"`{method}`" in line.split("|")[1]]
    numbers = [float(number) for number in row.split("|")[2].split(" to ")]
    assert (numbers[0], numbers[-1]) == (usual.lowest, usual.highest)
