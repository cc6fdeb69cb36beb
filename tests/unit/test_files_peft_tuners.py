"""PEFT's other tuners as files: PEFT is imported for them only, and what is missing is told in a sentence."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deft_pack.deft_ops import files, methods
from deft_pack.deft_ops.files import peft_fields, peft_records, peft_tuners

LAYER = "blocks.0.attn.to_q"


def folder_with(folder: Path, record: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(record))
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def hra(folder: Path, **record: Any) -> Path:
    return folder_with(folder, {"peft_type": "HRA", "r": 2, **record}, {f"{LAYER}.hra_u": torch.ones(8, 2)})


def test_peft_is_imported_when_such_a_folder_is_read(root: Path, tmp_path: Path) -> None:
    """The import takes seconds: here it is asked for, and not found."""
    save_file({"a.lora_A.weight": torch.ones(2, 8), "a.lora_B.weight": torch.ones(8, 2)}, tmp_path / "lora.safetensors")
    code = f"""
import importlib.util, sys
class Refusing:
    asked = False
    def find_spec(self, name, path, target=None):
        if name == "peft":
            self.asked = True
            raise ModuleNotFoundError("No module named 'peft'", name="peft")
sys.meta_path.insert(0, refusing := Refusing())
root = {str(root)!r}
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
import pack.deft_ops.files as files, pack.deft_ops.methods
files.read({str(tmp_path / "lora.safetensors")!r})
print(refusing.asked)
try:
    files.read({str(hra(tmp_path / "hra"))!r})
except ValueError:
    print(refusing.asked)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_without_peft_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("peft", "peft.mapping"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ValueError,
        match=r"adapter_model.safetensors holds .* type HRA, which needs the package peft.*"
        r"install it with `.*python.* -m pip install peft`\.$",
    ):
        files.read(hra(tmp_path))


def test_an_older_peft_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftType, mapping

    monkeypatch.delitem(mapping.PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.HRA)
    with pytest.raises(ValueError, match=r"the installed PEFT does not have: upgrade it with `.* --upgrade peft`\.$"):
        files.read(hra(tmp_path))


def test_what_is_carried(tmp_path: Path) -> None:
    """The file's tensors by layer, what the layers share by its name alone, and a record that says all."""
    tensors = {f"{LAYER}.vera_lambda_b": torch.ones(6), f"{LAYER}.vera_lambda_d": torch.ones(2)}
    folder = folder_with(tmp_path, {"peft_type": "VERA", "r": 2, "target_modules": "(a*)*b"}, tensors)
    shared = {"base_model.vera_A": torch.ones(2, 8), "base_model.vera_B": torch.ones(6, 2)}
    save_file(
        {f"base_model.model.{name}": value for name, value in tensors.items()} | shared,
        folder / "adapter_model.safetensors",
    )
    adapter = files.read(folder)
    assert adapter.keys() == {*tensors, "vera_A", "vera_B"}
    assert adapter.metadata["method"] == "vera"
    assert adapter.metadata["file_format"] == "peft_tuners"
    (part,) = peft_tuners.parts_of(adapter) or []
    assert part.layers.keys() == {LAYER}
    assert part.shared.keys() == {"vera_A", "vera_B"}
    assert json.loads(adapter.metadata[peft_tuners.RECORD]) == {
        "": {"peft_type": "VERA", "r": 2, "projection_prng_key": 0, "save_projection": True}
    }
    assert adapter.spelled["vera_A"] == "base_model.vera_A"
    adapter.metadata[peft_tuners.RECORD] = "[1"
    with pytest.raises(ValueError, match="cannot be read"):
        peft_tuners.parts_of(adapter)


def test_a_record_of_diffusers_header(tmp_path: Path) -> None:
    """A pipeline's file, of which one part is computed by PEFT: then all of it is."""
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    header = {f"{part}.{field}": value for part in ("unet", "text_encoder") for field, value in fields.items()}
    header["unet.init_lora_weights"] = "olora"
    tensors = {
        f"{part}.{LAYER}.{name}": torch.ones(*shape)
        for part in ("unet", "text_encoder")
        for name, shape in (("lora_A.weight", (2, 8)), ("lora_B.weight", (6, 2)))
    }
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    adapter = files.read(tmp_path / "a.safetensors")
    assert adapter.metadata["method"] == "lora/olora"
    assert len(adapter) == 4
    assert {part.component for part in peft_tuners.parts_of(adapter) or []} == {"unet", "text_encoder"}


@pytest.mark.parametrize(
    ("format_name", "record", "message"),
    [
        ("peft_tuners", None, "has no record of PEFT"),
        ("peft_tuners", {"peft_type": "LOHA", "r": 2}, "type LOHA, which this pack computes itself: choose auto"),
        ("peft", {"peft_type": "HRA", "r": 2}, "only PEFT itself computes: choose auto"),
    ],
)
def test_a_format_that_is_not_the_files(tmp_path: Path, format_name: str, record: Any, message: str) -> None:
    hra(tmp_path)
    if record is None:
        (tmp_path / "adapter_config.json").unlink()
    else:
        (tmp_path / "adapter_config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        files.read(tmp_path, file_format=format_name)


def test_every_type_that_peft_merges_has_its_tensors_in_the_tables() -> None:
    assert peft_fields.FIELDS.keys() == peft_records.MERGEABLE | {"LORA"}


# Fields that must be off or have PEFT's default. AdaLoRA inherits LoRA's.
OFF = {
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "r",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "velora_config",
}


def test_every_field_of_every_type_is_known() -> None:
    """A field that is new in PEFT fails here, until somebody has looked at what it does."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    configs: Any = PEFT_TYPE_TO_CONFIG_MAPPING
    unknown = {
        f"{kind}.{field.name}"
        for kind in peft_records.MERGEABLE
        for field in dataclasses.fields(configs[kind])
        if not peft_fields.knows(kind, field.name) and field.name not in OFF
    }
    assert unknown == set()


def test_the_method_needs_its_record() -> None:
    method = methods.get("peft")
    assert not method.claims(["hra_u"])
    assert not method.low_rank
    with pytest.raises(ValueError, match="need the record"):
        method.from_tensors({"hra_u": torch.ones(8, 2)})


def test_a_change_of_a_layer_alone() -> None:
    """delta, its LoRA form and its strength, with PEFT's formula of HRA: reflections by the columns of u."""
    from torch.nn.functional import normalize

    method = methods.get("peft")
    source = torch.Generator().manual_seed(3)
    u, weight = torch.randn(8, 2, generator=source), torch.randn(6, 8, generator=source)
    record = json.dumps({"peft_type": "HRA", "r": 2, "apply_GS": False})
    factors = method.Factors(record, ("hra_u",), (u,), (6, 8))
    expected = weight.clone()
    for column in normalize(u, dim=0).T:
        expected = expected - 2 * torch.outer(expected @ column, column)
    change = method.delta(factors, weight)
    assert torch.allclose(change, expected - weight, atol=1e-5)
    assert change.norm() > 0.1
    assert torch.allclose(method.delta(factors, weight, strength=0.3), 0.3 * change)
    up, down = method.to_lora(factors, weight)
    assert torch.allclose(up @ down, change, atol=1e-5)
    assert method.fits(factors, (6, 8))
    assert not method.fits(factors, (8, 6))
    with pytest.raises(ValueError, match=r"PEFT could not compute HRA for a weight of \[6, 8\]"):
        method.delta(method.Factors(record, ("hra_v",), (u,), (6, 8)), weight)
