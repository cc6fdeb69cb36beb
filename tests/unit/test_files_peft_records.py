"""PEFT's records and what is read by them: every field has its place, and nothing that PEFT saves is left out."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils import PeftType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deft_pack.deft_ops import adapter as adapters
from deft_pack.deft_ops import files, methods
from deft_pack.deft_ops.files import native, peft_records

from ..tools import random

CONFIGS: dict[str, Any] = {
    "DEFT": peft.DeftConfig,
    "LORA": peft.LoraConfig,
    "LOHA": peft.LoHaConfig,
    "LOKR": peft.LoKrConfig,
    "OFT": peft.OFTConfig,
}


def record_of(kind: str, **settings: Any) -> dict[str, Any]:
    """What PEFT writes for its own defaults, with these settings changed."""
    return CONFIGS[kind](target_modules=["to_q"]).to_dict() | {"peft_type": kind} | settings


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_of_peft_has_its_place(kind: str) -> None:
    fields = {field.name for field in dataclasses.fields(CONFIGS[kind])}
    assert fields <= peft_records.known_fields(kind)
    assert peft_records.reading_of(record_of(kind)) == "own"


@pytest.mark.parametrize("kind", [kind.value for kind in PeftType])
def test_every_type_of_peft_has_its_place(kind: str) -> None:
    """Loaded, or refused for what it is; a type that PEFT adds is "not known here" until someone looks at it."""
    try:
        assert peft_records.reading_of({"peft_type": kind}) == ("own" if kind in CONFIGS else "peft")
    except ValueError as error:
        assert kind in str(error)
        assert "not known here" not in str(error)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("LORA", {"init_lora_weights": start}) for start in (True, False, None, "gaussian", "eva", "orthogonal", "mica")]
    + [
        ("LORA", {"use_dora": True}),
        ("LORA", {"use_rslora": True}),
        ("LORA", {"lora_bias": True}),
        ("LORA", {"bias": "all"}),
        ("LORA", {"bias": "lora_only"}),
        ("LORA", {"modules_to_save": ["proj_out"]}),
        ("LORA", {"rank_pattern": {"to_q": 4}, "alpha_pattern": {r"^blocks\.\d+\.to_q": 2}}),
        ("LORA", {"target_modules": ".*(a+)+$", "layers_to_transform": [1], "layers_pattern": "blocks"}),
        ("LORA", {"eva_config": {"rho": 2.0}, "corda_config": {}, "loftq_config": {}, "task_type": "CAUSAL_LM"}),
        ("LORA", {"of_2027": None, "also_of_2027": {}}),
        ("LOHA", {"use_effective_conv2d": True}),
        ("LOKR", {"decompose_both": True, "decompose_factor": 4, "init_weights": "lycoris"}),
        ("OFT", {"bias": "oft_only", "coft": True, "block_share": True}),
        ("DEFT", {"para": True, "bias": "deft_only"}),
    ],
    ids=str,
)
def test_what_the_pack_computes(kind: str, settings: dict[str, Any]) -> None:
    assert peft_records.reading_of(record_of(kind, **settings)) == "own"


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "OLoRA"},
        {"kasa_config": {"beta": 1e-4}},
        {"use_bdlora": {"nblocks": 2}},
        {"monteclora_config": {"num_samples": 2}},
        {"velora_config": {"num_groups": 2}},
        {"use_qalora": True},
        {"target_parameters": ["to_q.weight"]},
    ],
    ids=str,
)
def test_what_peft_computes(settings: dict[str, Any]) -> None:
    assert peft_records.reading_of(record_of("LORA", **settings)) == "peft"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            record_of("LORA", init_lora_weights=start),
            f"{start} .*path_initial_model_for_weight_conversion.*Extract Adapter",
        )
        for start in ("pissa_niter_4", "lora_ga", "loftq", "corda")
    ]
    + [
        (record_of("LORA", init_lora_weights="new_start"), "new_start in its record, which this pack does not know"),
        (record_of("LORA", init_lora_weights=["pissa"]), "does not know"),
        (record_of("LORA", arrow_config={"top_k": 3}), "arrow_config .*cannot be merged"),
        (record_of("LORA", alora_invocation_tokens=[1, 2]), "alora_invocation_tokens .*tokens of a text"),
        (record_of("LORA", layer_replication=[[0, 2]]), "layer_replication .*repeats layers"),
        (record_of("LORA", fan_in_fan_out=True), "fan_in_fan_out .*transposed"),
        (record_of("LORA", megatron_config={"a": 1}), "megatron_config .*Megatron"),
        (record_of("LORA", trainable_token_indices=[1]), "trainable_token_indices .*single words"),
        (record_of("LORA", bias="some"), "bias = some"),
        (record_of("LORA", bias="oft_only"), "bias = oft_only"),
        (record_of("DEFT", of_2027=2), "of_2027 = 2 in its record, which this pack does not know"),
        (record_of("OFT", kasa_config={"beta": 1}), "kasa_config"),
        (record_of("LORA", lora_alpha="much"), "lora_alpha = much .*a number"),
        (record_of("LORA", lora_alpha=float("nan")), "lora_alpha = nan"),
        (record_of("LORA", lora_alpha=10**400), "lora_alpha = 1000.*a number"),
        (record_of("LOHA", r=0), "r = 0 .*a positive number"),
        (record_of("LORA", rank_pattern={"to_q": -1}), "rank_pattern of to_q = -1 .*a positive number"),
        (record_of("OFT", num_cayley_neumann_terms=10**9), "more than 100"),
        (record_of("LORA", use_rslora="false"), "use_rslora = false .*true or false is needed"),
        (record_of("LORA", alpha_pattern=["to_q"]), "alpha_pattern = .*an object"),
        (record_of("LORA", alpha_pattern={"to_q": None, "to_k": "x"}), "alpha_pattern of to_k = x"),
        (record_of("LORA", rank_pattern={"to_(q": 2}), "pattern to_\\(q in rank_pattern"),
        (record_of("LORA", rank_pattern={"(.*a)+x": 2}), "too long to match"),
        (record_of("LORA", rank_pattern={".*.*.*.*x": 2}), "too long to match"),
        (record_of("LORA", rank_pattern={"x" * 2000: 2}), "too long to match"),
        ({"peft_type": "NEW2027"}, "type NEW2027, which this pack does not know: update the pack"),
        ({"peft_type": ["LORA"]}, "which this pack does not know"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING, which makes prompts"),
        ({"peft_type": "XLORA"}, "XLORA, which mixes"),
        ({"peft_type": "BONE"}, "BONE, which PEFT 0.21 calls MISS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        peft_records.reading_of(record)


def test_a_new_field_with_its_default_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The field may be one of a PEFT that is newer than this pack: records without it mean the default."""

    @dataclasses.dataclass
    class Newer(peft.LoraConfig):
        of_2027: int = 16

    monkeypatch.setitem(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.LORA, Newer)
    assert peft_records.reading_of(record_of("LORA", of_2027=16)) == "own"
    with pytest.raises(ValueError, match="of_2027 = 8"):
        peft_records.reading_of(record_of("LORA", of_2027=8))


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"r": 2, "lora_alpha": 4}, "LORA"),
        ({"r": 2}, "DEFT"),
        ({"peft_type": "OFT"}, "OFT"),
    ],
)
def test_kind_of(record: dict[str, Any], kind: str) -> None:
    assert peft_records.kind_of(record) == kind


# ---------------------------------------------------------------------------------------- what the reader makes of it


class Network(nn.Module):
    """One layer of each kind, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Module()
        self.block.norm = nn.LayerNorm(12)
        self.block.to_q = nn.Linear(12, 10)
        self.block.conv = nn.Conv2d(6, 8, 1)
        self.block.wide = nn.Conv2d(6, 8, 3)
        self.proj_out = nn.Linear(10, 12)


def trained(config: Any, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A PEFT model over Network, everything trainable moved, saved; the network's tensors before and merged."""
    network = Network()
    base = {key: value.clone() for key, value in network.state_dict().items()}
    wrapped = peft.get_peft_model(network, config)
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.2 * random(*parameter.shape, seed=60 + index))
    wrapped.save_pretrained(folder)
    return base, {key: value.detach() for key, value in wrapped.merge_and_unload().state_dict().items()}


def applied(adapter: Any, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's tensors with every layer of the adapter, by its names; all of its tensors are used."""
    weights = dict(base)
    layers, others = adapters.layers(adapter), adapters.foreign(adapter)
    for name, group in layers.items():
        key = name if name.endswith(".bias") else f"{name}.weight"
        method = methods.method_of(group)
        factors = method.from_tensors(group)
        assert method.fits(factors, tuple(base[key].shape))
        weights[key] = weights[key] + method.delta(factors, base[key])
    for key, tensor in others.items():
        name, _, suffix = key.rpartition(".")
        assert suffix == "diff_b"  # ComfyUI's own
        weights[f"{name}.bias"] = weights[f"{name}.bias"] + tensor
    return weights


LINEAR = ["to_q"]
CASES: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "lora-bias-all": (lambda: peft.LoraConfig(r=3, lora_alpha=5, bias="all", target_modules=LINEAR), {"replaced"}),
    "lora-bias-only": (lambda: peft.LoraConfig(r=3, bias="lora_only", target_modules=["to_q", "wide"]), {"replaced"}),
    "lora_bias": (
        lambda: peft.LoraConfig(r=3, lora_alpha=5, lora_bias=True, target_modules=["to_q", "conv", "wide"]),
        {"diff_b"},
    ),
    "lora_bias-rslora-pattern": (
        lambda: peft.LoraConfig(
            r=3,
            lora_alpha=5,
            lora_bias=True,
            use_rslora=True,
            rank_pattern={"conv": 2},
            alpha_pattern={"to_q": 2},
            target_modules=["to_q", "conv"],
        ),
        {"diff_b"},
    ),
    "lora_bias-bias-all": (
        lambda: peft.LoraConfig(r=3, lora_bias=True, bias="all", target_modules=LINEAR),
        {"replaced"},
    ),
    "modules_to_save": (
        lambda: peft.LoraConfig(r=3, modules_to_save=["norm", "proj_out", "wide"], target_modules=LINEAR),
        {"replaced"},
    ),
    "dora-modules_to_save": (
        lambda: peft.LoraConfig(r=3, use_dora=True, modules_to_save=["norm"], target_modules=["to_q", "conv"]),
        {"replaced"},
    ),
    "bias-all-modules_to_save": (
        lambda: peft.LoraConfig(r=3, bias="all", modules_to_save=["norm", "proj_out"], target_modules=LINEAR),
        {"replaced"},
    ),
    "deft": (lambda: peft.DeftConfig(r=3, decomposition_method="qr", bias="all", target_modules=LINEAR), {"replaced"}),
    "para": (
        lambda: peft.DeftConfig(r=3, para=True, bias="deft_only", modules_to_save=["proj_out"], target_modules=LINEAR),
        {"replaced"},
    ),
    "oft": (
        lambda: peft.OFTConfig(
            oft_block_size=3, bias="oft_only", modules_to_save=["norm"], target_modules=["to_q", "conv"]
        ),
        {"replaced"},
    ),
    "mica": (lambda: peft.LoraConfig(r=2, init_lora_weights="mica", target_modules=LINEAR), set()),
    "orthogonal": (lambda: peft.LoraConfig(r=2, init_lora_weights="orthogonal", target_modules=LINEAR), set()),
}


@pytest.mark.parametrize("case", CASES)
def test_all_that_peft_saves_is_applied(tmp_path: Path, case: str) -> None:
    """The network's tensors after merge_and_unload, biases and saved modules too; native files keep them."""
    config, more = CASES[case]
    base, merged = trained(config(), tmp_path)
    saved = {key.removeprefix("base_model.model.") for key in load_file(tmp_path / "adapter_model.safetensors")}
    adapter = files.read(tmp_path)
    assert more <= {key.rpartition(".")[2] for key in adapter}
    again = files.read(native.write(adapter, tmp_path / "native" / "a.safetensors"))
    for read in (adapter, again):
        weights = applied(read, base)
        changed = {key for key in base if not torch.equal(base[key], merged[key])}
        assert changed
        assert {key for key in base if not torch.equal(base[key], weights[key])} == changed
        for key in changed:
            assert torch.allclose(weights[key], merged[key], atol=1e-6), key
    assert {
        adapters.spelling(adapter, key).removeprefix("base_model.model.")
        for key in adapter
        if not key.endswith(".alpha")
    } <= saved


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("pissa", {"init_lora_weights": "pissa"}),
        ("niter", {"init_lora_weights": "pissa_niter_4"}),
        ("olora", {"init_lora_weights": "olora"}),
    ],
)
def test_a_folder_that_was_converted_when_it_was_saved_is_a_plain_lora(
    tmp_path: Path, case: str, options: dict[str, Any]
) -> None:
    """path_initial_model_for_weight_conversion: the record says nothing of the start any more."""
    network = Network()
    base = {key: value.clone() for key, value in network.state_dict().items()}
    wrapped = peft.get_peft_model(network, peft.LoraConfig(r=3, lora_alpha=4, target_modules=LINEAR, **options))
    wrapped.peft_config["default"].init_lora_weights = True
    wrapped.save_pretrained(tmp_path / "start")
    wrapped.peft_config["default"].init_lora_weights = options["init_lora_weights"]
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.2 * random(*parameter.shape, seed=60 + index))
    wrapped.save_pretrained(tmp_path / "whole")
    wrapped.save_pretrained(tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    merged = wrapped.merge_and_unload().state_dict()
    weights = applied(files.read(tmp_path / "out"), base)
    assert (merged["block.to_q.weight"] - base["block.to_q.weight"]).norm() > 0.1
    assert torch.allclose(weights["block.to_q.weight"], merged["block.to_q.weight"], atol=1e-5)
    with pytest.raises(ValueError, match="adapter_model.safetensors .*(only PEFT itself|path_initial_model)"):
        files.read(tmp_path / "whole", file_format="peft")


@pytest.mark.parametrize("options", [{}, {"block_share": True}, {"coft": True, "eps": 0.5}], ids=str)
def test_oft_is_what_pefts_forward_computes(tmp_path: Path, options: dict[str, Any]) -> None:
    """Checked for linear layers and 1 x 1 convolutions. PEFT's forward of larger ones is no convolution, see below."""
    network = Network()
    linear, conv = network.block.to_q, network.block.conv
    weights = {"block.to_q": linear.weight.detach().clone(), "block.conv": conv.weight.detach().clone()}
    wrapped = peft.get_peft_model(
        network, peft.OFTConfig(r=0, oft_block_size=3, target_modules=["to_q", "conv"], **options)
    )
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.2 * random(*parameter.shape, seed=60 + index))
    wrapped.save_pretrained(tmp_path)
    adapter = files.read(tmp_path)
    for name, x in (("block.to_q", random(2, 12, seed=1)), ("block.conv", random(2, 6, 5, 5, seed=2))):
        group = adapters.layers(adapter)[name]
        weight = weights[name] + methods.get("oft").delta(methods.get("oft").from_tensors(group), weights[name])
        layer = wrapped.get_submodule(f"base_model.model.{name}")
        bias = layer.get_base_layer().bias
        ours = nn.functional.linear(x, weight, bias) if x.ndim == 2 else nn.functional.conv2d(x, weight, bias)
        assert torch.allclose(ours, layer(x), atol=1e-5)
        assert (weight - weights[name]).norm() > 1e-2 * weights[name].norm()


def test_oft_of_larger_convolutions_fits_no_weight(tmp_path: Path) -> None:
    """PEFT's forward is no identity at its start, as it should be: it adds what overlapping patches have in common."""
    network = Network()
    x = random(1, 6, 7, 7, seed=3)
    base = network.block.wide(x)
    wrapped = peft.get_peft_model(network, peft.OFTConfig(r=0, oft_block_size=3, target_modules=["wide"]))
    layer = wrapped.get_submodule("base_model.model.block.wide")
    assert not torch.allclose(layer(x), base, rtol=0.5)
    wrapped.save_pretrained(tmp_path)
    oft = methods.get("oft")
    factors = oft.from_tensors(adapters.layers(files.read(tmp_path))["block.wide"])
    assert not oft.fits(factors, (8, 6, 3, 3))
    assert "PEFT" in oft.misfit(factors, (8, 6, 3, 3))
    assert oft.misfit(factors, (8, 54)) is None
    assert oft.fits(factors, (8, 54, 1, 1))


@pytest.mark.parametrize("terms", [2, 3, 5])
@pytest.mark.parametrize("version", [None, "0.17.1", "0.18.0", "0.21.2"])
def test_the_series_of_oft_is_that_of_the_version(tmp_path: Path, version: str | None, terms: int) -> None:
    """Each power had the factor 2 before 0.18 (its tuners/oft/layer.py, _cayley_batch), and now the last one has 1."""
    config = peft.OFTConfig(r=0, oft_block_size=3, num_cayley_neumann_terms=terms, target_modules=LINEAR)
    base, merged = trained(config, tmp_path)
    record = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(record | {"peft_version": version}))
    weight = applied(files.read(tmp_path), base)["block.to_q.weight"]
    entries = load_file(tmp_path / "adapter_model.safetensors")["base_model.model.block.to_q.oft_R.weight"].double()
    blocks = []
    for a, b, c in entries:
        S = torch.tensor([[0, a, b], [-a, 0, c], [-b, -c, 0]], dtype=torch.float64)
        blocks.append(torch.eye(3) + 2 * sum(torch.linalg.matrix_power(S, k) for k in range(1, terms)))
    old = base["block.to_q.weight"].double() @ torch.block_diag(*blocks).T
    is_old = version in (None, "0.17.1")
    assert torch.allclose(weight.double(), old if is_old else merged["block.to_q.weight"].double(), atol=1e-5)
    assert terms == 2 or not torch.allclose(old, merged["block.to_q.weight"].double(), atol=1e-3)


def folder_of(folder: Path, tensors: dict[str, Tensor], record: dict[str, Any] | None) -> Path:
    save_file({key: value.clone() for key, value in tensors.items()}, folder / "adapter_model.safetensors")
    if record is not None:
        (folder / "adapter_config.json").write_text(json.dumps(record))
    return folder


A, B = random(2, 5), random(6, 2)
RECORD = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
X = "base_model.model.x"


@pytest.mark.parametrize(
    ("tensors", "record", "message"),
    [
        (
            {f"{X}.lora_A.weight": A, f"{X}.lora_B.weight": B, f"{X}.weight": random(6, 5)},
            RECORD,
            f"has {X}.weight, a weight of its own for a layer that it also has an adapter for: remove one",
        ),
        (
            {f"{X}.lora_A.weight": A, f"{X}.lora_A.default.weight": A + 1, f"{X}.lora_B.weight": B},
            RECORD,
            f"has x.lora_A.weight twice, as {X}.lora_A.(default.)?weight and {X}.lora_A.(default.)?weight: remove one",
        ),
        (
            {f"{X}.lora_magnitude_vector": random(6), f"{X}.lora_B.weight": B},
            RECORD | {"use_dora": True},
            f"has {X}.lora_magnitude_vector without its lora_A.weight: save or",
        ),
        (
            {f"{X}.lora_A.weight": torch.tensor(1.0), f"{X}.lora_B.weight": B},
            RECORD,
            f"has {X}.lora_A.weight that is a single number",
        ),
        (
            {f"{X}.lora_A.weight": torch.zeros(0, 5), f"{X}.lora_B.weight": torch.zeros(6, 0)},
            RECORD,
            rf"has {X}.lora_A.weight of shape \[0, 5\]",
        ),
        (
            {f"{X}.oft_R.weight": random(2, 4)},
            {"peft_type": "OFT"},
            rf"{X}.oft_R.weight of shape \[2, 4\], which holds",
        ),
        ({f"{X}.deft_P": random(6)}, {"peft_type": "DEFT"}, rf"has {X}.deft_P of shape \[6\]"),
        ({f"{X}.deft_P": random(6, 2)}, {"peft_type": "DEFT", "decomposition_method": "nmf"}, f"{X}.deft_P .*'nmf'"),
        ({f"{X}.lora_A.weight": A, f"{X}.lora_B.weight": B}, RECORD | {"lora_alpha": "x"}, "lora_alpha = x"),
        ({"prompt_embeddings": A}, {"peft_type": "PROMPT_TUNING"}, "of type PROMPT_TUNING, which makes prompts"),
        ({f"{X}.poly_lora_A": A}, {"peft_type": "POLY"}, "of type POLY, which mixes its parts"),
        ({f"{X}.oft_r": A}, {"peft_type": "OFT", "of_2027": [1]}, "of_2027"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_name_the_file_and_the_tensor(
    tmp_path: Path, tensors: dict[str, Tensor], record: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}.adapter_model.safetensors.*{message}"):
        files.read(folder_of(tmp_path, tensors, record))


def test_parts_of_a_pipeline_have_their_own_records(tmp_path: Path) -> None:
    header = {
        f"{part}.{key}": value
        for part, alpha in (("unet", 4), ("text_encoder", 1))
        for key, value in {"peft_type": "LORA", "r": 2, "lora_alpha": alpha}.items()
    }
    tensors = {
        f"{part}.x.lora_{side}.weight": value.clone()
        for part in ("unet", "text_encoder")
        for side, value in (("A", A), ("B", B))
    }
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    adapter = files.read(tmp_path / "a.safetensors")
    assert (float(adapter["unet.x.alpha"]), float(adapter["text_encoder.x.alpha"])) == (4, 1)
    assert adapter.spelled["unet.x.lora_down.weight"] == "unet.x.lora_A.weight"
    for more, message in (({"of_2027": 1}, "of_2027 = 1"), ({"text_encoder.r": -1}, r"r = -1 .*part text_encoder")):
        save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(header | more)})
        with pytest.raises(ValueError, match=message):
            files.read(tmp_path / "a.safetensors")
    header["text_encoder.init_lora_weights"] = "loftq"
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    with pytest.raises(ValueError, match=r"a.safetensors .*loftq.* \(of its part text_encoder\)"):
        files.read(tmp_path / "a.safetensors")


def test_a_record_of_one_part_holds_for_layers_without_its_name(tmp_path: Path) -> None:
    header = {"transformer.r": 2, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {"y": 2}, "note": None}
    tensors = {f"{layer}.lora_{side}.weight": value.clone() for layer in "xy" for side, value in (("A", A), ("B", B))}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    adapter = files.read(tmp_path / "a.safetensors")
    assert (float(adapter["x.alpha"]), float(adapter["y.alpha"])) == (8, 2)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("x.lora_B.bias", "x.diff_b"),
        ("x.lora_B.default.bias", "x.diff_b"),
        ("x.bias", "x.bias.replaced"),
        ("x.base_layer.bias", "x.bias.replaced"),
        ("norm.weight", "norm.replaced"),
        ("norm.modules_to_save.default.weight", "norm.replaced"),
        ("norm.modules_to_save.bias", "norm.bias.replaced"),
        ("lora_te_x.lora_up.weight", "lora_te_x.lora_up.weight"),
        ("x.lora_mid.weight", "x.lora_mid.weight"),
        ("x_lora.up.weight", "x_lora.up.weight"),
        ("x.magic", "x.magic"),
        ("table", "table"),
    ],
)
@pytest.mark.parametrize("by", ["record", "prefix"])
def test_names_in_files_of_peft(tmp_path: Path, key: str, named: str, by: str) -> None:
    start = "base_model.model." if by == "prefix" else ""
    tensors = {f"{start}{name}": value for name, value in (("x.lora_A.weight", A), ("x.lora_B.weight", B))}
    folder_of(tmp_path, tensors | {f"{start}{key}": random(6)}, RECORD if by == "record" else None)
    adapter = files.read(tmp_path)
    assert set(adapter) == {"x.lora_down.weight", "x.lora_up.weight", "x.alpha", named}
    assert adapters.spelling(adapter, named) == f"{start}{key}"


def test_tensors_of_other_files_keep_their_names(tmp_path: Path) -> None:
    tensors = {
        "x.lora_A.weight": A,
        "x.lora_B.weight": B,
        "x.lora_B.bias": random(6),
        "x.bias": random(6),
        "norm.weight": random(6),
        "y.oft_R.weight": random(2, 3),
        "y.oft_R.scaled_oft": torch.tensor(True),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = files.read(tmp_path / "a.safetensors")
    assert adapter.keys() == tensors.keys()
    assert adapter.metadata["file_format"] == "native"


def test_the_files_own_alpha_counts_without_a_record(tmp_path: Path) -> None:
    tensors = {f"{X}.lora_A.weight": A, f"{X}.lora_B.weight": B, f"{X}.alpha": torch.tensor(1.0)}
    adapter = files.read(folder_of(tmp_path, tensors, None))
    assert float(adapter["x.alpha"]) == 1
    assert "note" not in adapter.metadata
    adapter = files.read(folder_of(tmp_path, tensors, RECORD))  # as diffusers reads it
    assert float(adapter["x.alpha"]) == 4


@pytest.mark.parametrize(
    ("tensors", "note"),
    [
        ({"lora_A.weight": A, "lora_B.weight": B}, "no record of its alpha: the rank is assumed"),
        ({"oft_R.weight": random(2, 3)}, "no record of its settings: PEFT's defaults are assumed"),
        ({"hada_w1_a": B, "hada_w1_b": A, "hada_w2_a": B, "hada_w2_b": A, "alpha": torch.tensor(1.0)}, None),
        ({"hada_w1_a": B, "hada_w1_b": A, "hada_w2_a": B, "hada_w2_b": A}, "its alpha: the rank is assumed"),
    ],
    ids=["lora", "oft", "loha-alpha", "loha"],
)
def test_what_is_assumed_without_a_record(tmp_path: Path, tensors: dict[str, Tensor], note: str | None) -> None:
    adapter = files.read(folder_of(tmp_path, {f"{X}.{part}": value for part, value in tensors.items()}, None))
    assert (note or "") in adapter.metadata.get("note", "")
    assert ("note" in adapter.metadata) == bool(note)
    assert "alpha" not in tensors or float(adapter["x.alpha"]) == 1


def test_incomplete_layers_are_left_as_they_are(tmp_path: Path) -> None:
    tensors = {f"{X}.lora_A.weight": A, f"{X}.lora_B.bias": random(6), f"{X}.hada_w2_a": A, "y.lora_B.weight": B}
    adapter = files.read(folder_of(tmp_path, tensors, RECORD))
    assert set(adapter) == {"x.lora_A.weight", "x.lora_B.bias", "x.hada_w2_a", "y.lora_B.weight"}
    assert adapters.spelling(adapter, "x.lora_A.weight") == f"{X}.lora_A.weight"


# ---------------------------------------------------------------------------------------------- the method "replaced"


@pytest.mark.parametrize("shape", [(7,), (6, 5), (6, 4, 3, 3)], ids=str)
def test_a_replaced_weight(shape: tuple[int, ...]) -> None:
    replaced = methods.get("replaced")
    weight, value = random(*shape, seed=1), random(*shape, seed=2)
    factors = replaced.from_tensors({"replaced": value.half()})
    assert replaced.fits(factors, shape)
    assert not replaced.fits(factors, (*shape, 1))
    change = replaced.delta(factors, weight.bfloat16(), strength=0.5)
    assert torch.allclose(change, 0.5 * (value.half().float() - weight.bfloat16().float()))
    assert replaced.to_tensors(factors)["replaced"].dtype == torch.float16
    with pytest.raises(ValueError, match="but the weight"):  # which torch would spread
        replaced.delta(replaced.Factors(torch.ones(1)), weight)
    if len(shape) > 1:
        up, down = replaced.to_lora(factors, weight)
        assert torch.allclose((up @ down).reshape(shape), value.half().float() - weight, atol=1e-5)
        assert up.shape[1] <= replaced.rank({"replaced": value})


def test_a_replaced_number_is_refused() -> None:
    with pytest.raises(ValueError, match="single number"):
        methods.get("replaced").from_tensors({"replaced": torch.tensor(1.0)})


@pytest.mark.parametrize("para", [False, None])
def test_half_a_deft_layer_is_refused(tmp_path: Path, para: bool | None) -> None:
    """A layer without its R would be PaRa without a word."""
    tensors = {
        f"base_model.model.{name}.{part}": torch.ones(shape)
        for name in ("a.to_q", "b.to_q")
        for part, shape in (("deft_P", (8, 2)), ("deft_R", (2, 6)))
    }
    del tensors["base_model.model.b.to_q.deft_R"]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    record: dict[str, Any] = {"peft_type": "DEFT", "r": 2, "decomposition_method": "qr"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(record | ({} if para is None else {"para": para})))
    with pytest.raises(ValueError, match=r"adapter_model.safetensors has base_model.model.b.to_q.deft_P without the"):
        files.read(tmp_path)
