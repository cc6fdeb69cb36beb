"""Files of other programs against their authors' formulas, written out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deft_pack.deft_ops import adapter as adapters
from deft_pack.deft_ops import files, methods

from ..tools import random, relative

OUT, IN, RANK = 24, 20, 4
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OMNI = "llm.layers.0.self_attn.qkv_proj"


W = random(OUT, IN, seed=1)
P, R, GATE = random(OUT, RANK, seed=2), random(RANK, IN, seed=3), torch.tensor([0.7])


def changed(adapter: Any, name: str, weight: Tensor = W) -> Tensor:
    """The weight with one layer of the adapter."""
    group = adapters.layers(adapter)[name]
    method = methods.method_of(group)
    return weight + method.delta(method.from_tensors(group), weight)


def orthogonalized(P: Tensor, method: str = "qr") -> Tensor:
    """Q as both of the DEFT repository's layers make it: in float32, as torch returns it, rounded to the dtype of P."""
    factor = torch.linalg.qr(P.float()).Q if method == "qr" else torch.linalg.svd(P.float(), full_matrices=False).U
    return factor[:, : P.shape[1]].to(P.dtype).double()


def householder(P: Tensor) -> Tensor:
    """Q [out, r] of Householder's reflections with LAPACK's signs (dlarfg), in float64.

    Each reflection turns the rest of a column to beta e_1, where beta is the norm against the sign of the first entry.
    """
    A, Q = P.double().clone(), torch.eye(len(P), dtype=torch.float64)
    for k in range(A.shape[1]):
        v = A[k:, k].clone()
        v[0] += torch.copysign(v.norm(), v[0])
        v /= v.norm()
        A[k:] -= 2 * torch.outer(v, v @ A[k:])
        Q[:, k:] -= 2 * torch.outer(Q[:, k:] @ v, v)
    return Q[:, : A.shape[1]]


def of_sdxl_code(P: Tensor, R: Tensor | None, ortho: bool, gate: Tensor | None = None) -> Tensor:
    """W as dreambench_plus/modules/main.py makes it in its forward, but in float64; no R is its use_gating "0"."""
    Q = orthogonalized(P) if ortho else P.double()
    kept = W.double() - (Q @ Q.T) @ W.double()
    if R is None:
        return kept
    injected = Q @ R.double()
    return kept + (injected if gate is None else injected * torch.sigmoid(gate.double()))


def of_omnigen_code(tensors: dict[str, Tensor], record: dict[str, Any]) -> Tensor:
    """W as deft/injection.py makes it in its forward, but in float64."""
    gate = torch.sigmoid(tensors["gate"].double()) if record["use_gating"] else 1.0
    if record["injection_method"] == "additive_update":
        scaling = record["lora_alpha"] / record["r"]
        return W.double() + tensors["lora_A"].double() @ tensors["lora_B"].double() * scaling * gate
    method = record["decomposition_method"]
    if method == "None":
        Q = tensors["P"].double()
        removed = Q @ torch.relu(Q).T
    else:
        cached = None if record["compute_svd_each_forward"] else tensors.get("Q_P_cached")
        Q = orthogonalized(tensors["P"], method) if cached is None else cached.double()
        removed = Q @ Q.T
    return W.double() - removed @ W.double() + (Q @ tensors["R_new"].double()) * gate


# ------------------------------------------------------------------------------------------- the DEFT repository, SDXL


@pytest.mark.parametrize("projector", ["auto", "ppt", "qr"])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deft_sdxl(tmp_path: Path, projector: str, gate: bool, dtype: torch.dtype) -> None:
    tensors = {f"{LAYER}.lora_layer.P": P.to(dtype), f"{LAYER}.lora_layer.R_new": R}
    if gate:
        tensors[f"{LAYER}.lora_layer.gate"] = GATE
    torch.save(tensors, tmp_path / "project_replace.pt")
    adapter = files.read(tmp_path, projector)
    assert adapter.metadata["file_format"] == "deft_sdxl"
    assert adapter.metadata["method"] == "deft"
    assert ("note" in adapter.metadata) == (projector == "auto")
    expected = of_sdxl_code(P.to(dtype), R, projector == "qr", GATE if gate else None)
    assert relative(changed(adapter, LAYER), expected) < 1e-6


@pytest.mark.parametrize("shape", [(OUT, RANK), (320, 8), (64, 1)], ids=str)
def test_the_signs_of_qr_are_those_of_lapacks_householder(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """What is assumed of the machine that wrote a file: R belongs to these signs, which the file does not hold."""
    start = random(*shape, seed=2)
    start[:, 0] = start[:, 0].abs()
    torch.save({f"{LAYER}.lora_layer.P": start, f"{LAYER}.lora_layer.R_new": random(shape[1], IN)}, tmp_path / "a.pt")
    Q = files.read(tmp_path / "a.pt", "qr")[f"{LAYER}.deft_Q"]
    expected = householder(start)
    assert relative(expected @ expected.T @ start.double(), start) < 1e-9  # a basis of P's columns
    assert (expected * start).sum(dim=0)[0] < 0  # not the signs of a positive diagonal
    assert relative(Q, expected) < 1e-5


def test_para_of_the_sdxl_code(tmp_path: Path) -> None:
    """The repository calls it PaRa without any R_new; its gate multiplies nothing."""
    torch.save({f"{LAYER}.lora_layer.P": P, f"{LAYER}.lora_layer.gate": GATE}, tmp_path / "a.pt")
    adapter = files.read(tmp_path / "a.pt")
    assert adapter.metadata["method"] == "para"
    assert "PaRa" in adapter.metadata["note"]
    assert relative(changed(adapter, LAYER), of_sdxl_code(P, None, True)) < 1e-6


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_additive_update_of_the_sdxl_code_is_its_lora(tmp_path: Path, gate: bool, whole: bool) -> None:
    """lora_alpha is 8 there, whatever the rank; P and R_new, which it registers as well, do nothing."""
    up, down = random(OUT, RANK, seed=11), random(RANK, IN, seed=12)
    tensors = {"lora_A": up, "lora_B": down}
    if whole:
        tensors |= {"P": P, "R_new": torch.zeros(RANK, IN)}
    if gate:
        tensors["gate"] = GATE
    torch.save({f"{LAYER}.lora_layer.{key}": value for key, value in tensors.items()}, tmp_path / "project_replace.pt")
    adapter = files.read(tmp_path)
    assert adapter.metadata["file_format"] == "deft_sdxl"
    assert adapter.metadata["method"] == "lora"
    assert "its LoRA's alpha: 8 is assumed" in adapter.metadata["note"]
    assert "projector" not in adapter.metadata
    weight = torch.sigmoid(GATE.double()) if gate else 1.0
    expected = W.double() + up.double() @ down.double() * (8.0 / RANK) * weight
    assert relative(changed(adapter, LAYER), expected) < 1e-6


# ---------------------------------------------------------------------------------------- the DEFT repository, OmniGen


def recorded(**settings: Any) -> dict[str, Any]:
    """A layer's settings as the repository writes them, with these of them changed."""
    return {
        "r": RANK,
        "injection_method": "residual_projection",
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
        "in_features": IN,
        "out_features": OUT,
        "init_scale": 1.0,
        "use_gating": False,
        "decomposition_method": "qr",
        "compute_svd_each_forward": False,
    } | settings


def save_omnigen(folder: Path, tensors: dict[str, Tensor], record: dict[str, Any] | None) -> Path:
    torch.save({f"{OMNI}.{key}": value for key, value in tensors.items()}, folder / "knowledge_injection_state.bin")
    if record is not None:
        config = {"layer_configs": {OMNI: record}}
        (folder / "knowledge_injection_config.json").write_text(json.dumps(config))
    (folder / "knowledge_injection_config.bin").write_bytes(b"never opened")
    return folder


@pytest.mark.parametrize("method", ["qr", "svd", "None"])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deft_omnigen(tmp_path: Path, method: str, each: bool, cached: bool, gate: bool, dtype: torch.dtype) -> None:
    record = recorded(decomposition_method=method, compute_svd_each_forward=each, use_gating=gate)
    tensors = {"P": P.to(dtype), "R_new": R.to(dtype)}
    if gate:
        tensors["gate"] = GATE.to(dtype)
    if cached:  # of another P, as when P was loaded anew
        tensors["Q_P_cached"] = torch.linalg.qr(random(OUT, RANK, seed=9)).Q.to(dtype)
    adapter = files.read(save_omnigen(tmp_path, tensors, record))
    assert adapter.metadata["file_format"] == "deft_omnigen"
    assert ("note" in adapter.metadata) == (method == "svd" and (each or not cached))
    assert relative(changed(adapter, OMNI), of_omnigen_code(tensors, record)) < 1e-6


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("alpha", [8.0, 4.0, 1.5])
def test_additive_update_of_omnigen(tmp_path: Path, gate: bool, alpha: float) -> None:
    record = recorded(injection_method="additive_update", lora_alpha=alpha, use_gating=gate)
    tensors = {
        "P": P,
        "R_new": torch.zeros(RANK, IN),
        "Q_P_cached": torch.linalg.qr(P).Q,
        "lora_A": random(OUT, RANK, seed=11),
        "lora_B": random(RANK, IN, seed=12),
    }
    if gate:
        tensors["gate"] = GATE
    adapter = files.read(save_omnigen(tmp_path, tensors, record))
    assert adapter.metadata["method"] == "lora"
    assert "note" not in adapter.metadata
    assert relative(changed(adapter, OMNI), of_omnigen_code(tensors, record)) < 1e-6


def test_omnigen_without_settings(tmp_path: Path) -> None:
    adapter = files.read(save_omnigen(tmp_path, {"P": P, "R_new": R}, None))
    assert "relu is assumed" in adapter.metadata["note"]
    assert (
        relative(changed(adapter, OMNI), of_omnigen_code({"P": P, "R_new": R}, recorded(decomposition_method="None")))
        < 1e-6
    )
    cached = torch.linalg.qr(random(OUT, RANK, seed=9)).Q
    tensors = {"P": P, "R_new": R, "Q_P_cached": cached}
    adapter = files.read(save_omnigen(tmp_path, tensors, None))
    assert "qr is assumed" in adapter.metadata["note"]
    assert relative(changed(adapter, OMNI), of_omnigen_code(tensors, recorded())) < 1e-6
    tensors = {"P": P, "R_new": R, "lora_A": random(OUT, RANK, seed=11), "lora_B": random(RANK, IN, seed=12)}
    adapter = files.read(save_omnigen(tmp_path, tensors, None))
    assert adapter.metadata["note"].endswith("the rank is assumed.")
    record = recorded(injection_method="additive_update", lora_alpha=RANK)
    assert relative(changed(adapter, OMNI), of_omnigen_code(tensors, record)) < 1e-6


@pytest.mark.parametrize(
    ("tensors", "record", "message"),
    [
        ({"P": P, "R_new": R}, {"decomposition_method": "nmf"}, "unknown projector 'nmf'"),
        (
            {"lora_A": P, "lora_B": R, "R_new": R},
            {"lora_alpha": "much"},
            "config.json has lora_alpha 'much' for llm.*proj",
        ),
        ({"lora_A": P, "lora_B": R, "R_new": R}, {"lora_alpha": 10**400}, "config.json has lora_alpha '1000"),
        ({"lora_A": P, "R_new": R}, {}, r"state.bin has llm.*qkv_proj\.lora_A without llm.*qkv_proj\.lora_B:"),
        ({"lora_B": R, "R_new": R}, {}, r"state.bin has llm.*qkv_proj\.lora_B without llm.*qkv_proj\.lora_A:"),
        ({"P": P, "R_new": R, "gate": torch.ones(2)}, {}, r"state.bin has llm.*qkv_proj.gate of shape \[2\]"),
        ({"R_new": R}, {}, r"state.bin has llm.*qkv_proj\.R_new without llm.*qkv_proj\.P:"),
    ],
)
def test_damaged_files_of_omnigen(tmp_path: Path, tensors: dict[str, Tensor], record: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files.read(save_omnigen(tmp_path, tensors, record))


def test_settings_of_omnigen_that_are_a_list(tmp_path: Path) -> None:
    folder = save_omnigen(tmp_path, {"P": P, "R_new": R}, None)
    (folder / "knowledge_injection_config.json").write_text('{"layer_configs": []}')
    with pytest.raises(ValueError, match="config.json has no object layer_configs"):
        files.read(folder)


# ------------------------------------------------------------------------------------------------------ PaRa and SVDiff


@pytest.mark.parametrize("projector", ["auto", "qr", "tsvd", "eigen"])
def test_para_of_the_deft_repository(tmp_path: Path, projector: str) -> None:
    torch.save({f"{OMNI}.B": P}, tmp_path / "para_rank_state.bin")
    adapter = files.read(tmp_path, projector)
    assert adapter.metadata["file_format"] == "para_deft"
    assert adapter.metadata["method"] == "para"
    U, S, _ = torch.linalg.svd(P.double(), full_matrices=False)
    Q = torch.linalg.qr(P.double()).Q
    proj = {"tsvd": U @ torch.diag(S) @ U.T, "eigen": P.double() @ P.double().T + 1e-6 * torch.eye(OUT)}.get(
        projector, Q @ Q.T
    )
    # eigen leaves out 1e-6 W outside of B's columns.
    assert relative(changed(adapter, OMNI), W.double() - proj @ W.double()) < 2e-6


@pytest.mark.parametrize("shape", [(OUT, IN), (12, 6, 3, 3)], ids=["linear", "conv"])
def test_para_of_its_authors(tmp_path: Path, shape: tuple[int, ...]) -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    weight = random(*shape, seed=1)
    up = random(shape[0], RANK, *[1] * (len(shape) - 2), seed=5)
    down = random(RANK, *shape[1:], seed=6)
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
    change = (up.flatten(1) @ down.flatten(1)).reshape(shape)
    torch.save(tensors, tmp_path / "cat.pt")
    subtracted = files.read(tmp_path / "cat.pt", file_format="para_authors")
    assert relative(changed(subtracted, name, weight), weight - change) < 1e-6
    assert "subtracted" in subtracted.metadata["note"]
    as_lora = files.read(tmp_path / "cat.pt")
    assert as_lora.metadata["file_format"] == "native"
    assert relative(changed(as_lora, name, weight), weight + change / RANK) < 1e-6
    file = tmp_path / "catXL_left_column_learn_Q_Linear_and_Conv2_alpha1.0_rank4_noxattn_last.pt"
    torch.save(tensors, file)
    assert relative(changed(files.read(file), name, weight), weight - change) < 1e-6
    torch.save({f"{name}.lora_up.weight": up}, file)  # the light variant
    light = files.read(file)
    flat = weight.flatten(1)
    assert relative(changed(light, name, weight), (flat - up.flatten(1) @ up.flatten(1).T @ flat).reshape(shape)) < 1e-6


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_svdiff(tmp_path: Path, suffix: str) -> None:
    shifts = {f"{LAYER}.delta": random(IN, seed=8), "conv_norm_out.delta": torch.tensor([0.3])}
    path = tmp_path / f"spectral_shifts{suffix}"
    torch.save(shifts, path) if suffix == ".pt" else save_file(shifts, path)
    adapter = files.read(tmp_path if suffix == ".safetensors" else path)
    assert adapter.metadata["file_format"] == adapter.metadata["method"] == "svdiff"
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    expected = U @ torch.diag(torch.relu(S + shifts[f"{LAYER}.delta"])) @ Vh
    assert relative(changed(adapter, LAYER), expected) < 1e-5


# ---------------------------------------------------------------------------------------------------------------- PEFT


def peft_model(config: Any, layer: Callable[[], nn.Module] = lambda: nn.Linear(IN, OUT)) -> tuple[Any, Tensor]:
    """A PEFT model over one layer "block.to_q" with everything trainable moved off its start; the base weight."""
    import peft

    block = nn.Module()
    block.to_q = layer()
    network = nn.Module()
    network.block = block
    wrapped = peft.get_peft_model(network, config)
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.2 * random(*parameter.shape, seed=60 + index))
    return wrapped, block.to_q.get_base_layer().weight.detach().clone()


def peft_merged(wrapped: Any) -> Tensor:
    wrapped.merge_adapter()
    return wrapped.base_model.model.block.to_q.get_base_layer().weight.detach()


@pytest.mark.parametrize(
    "options",
    [
        {"coft": False},
        {"use_cayley_neumann": False},
        {"num_cayley_neumann_terms": 3},
        {"num_cayley_neumann_terms": 2},
        {"block_share": True},
        {"coft": True, "eps": 0.5},
    ],
    ids=str,
)
def test_peft_oft(tmp_path: Path, options: dict[str, Any]) -> None:
    import peft

    wrapped, base = peft_model(peft.OFTConfig(r=0, oft_block_size=5, target_modules=["to_q"], **options))
    wrapped.save_pretrained(tmp_path)
    adapter = files.read(tmp_path)
    assert adapter.metadata["method"] == "oft"
    merged = peft_merged(wrapped)
    assert relative(merged, base) > 1e-2
    assert relative(changed(adapter, "block.to_q", base), merged) < 1e-6


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 3}}], ids=str)
@pytest.mark.parametrize("dora", [False, True])
def test_peft_lora_and_dora(tmp_path: Path, conv: bool, options: dict[str, Any], dora: bool) -> None:
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=7, use_dora=dora, target_modules=["to_q"], **options)
    wrapped, base = peft_model(config, (lambda: nn.Conv2d(6, 12, 3)) if conv else lambda: nn.Linear(IN, OUT))
    wrapped.save_pretrained(tmp_path)
    adapter = files.read(tmp_path)
    assert adapter.metadata["method"] == ("dora" if dora else "lora")
    merged = peft_merged(wrapped)
    assert relative(merged, base) > 1e-2
    assert relative(changed(adapter, "block.to_q", base), merged) < 1e-6


def test_peft_names_with_the_adapters_name_and_as_a_pickle(tmp_path: Path) -> None:
    import peft

    wrapped, base = peft_model(peft.DeftConfig(r=RANK, decomposition_method="qr", target_modules=["to_q"]))
    wrapped.save_pretrained(tmp_path / "plain")
    expected = files.read(tmp_path / "plain")
    folder = tmp_path / "named"
    folder.mkdir()
    state = {key: value for key, value in wrapped.state_dict().items() if "deft_" in key}
    assert all(key.endswith(".default") for key in state)
    torch.save(state, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text((tmp_path / "plain" / "adapter_config.json").read_text())
    named = files.read(folder)
    assert named.keys() == expected.keys()
    assert all(torch.equal(named[key], expected[key]) for key in expected)
    assert relative(changed(named, "block.to_q", base), peft_merged(wrapped)) < 1e-6


def test_peft_lora_without_a_record(tmp_path: Path) -> None:
    layer = "base_model.model.block.to_q"
    tensors = {f"{layer}.lora_A.weight": random(RANK, IN), f"{layer}.lora_B.weight": random(OUT, RANK)}
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = files.read(tmp_path / "a.safetensors")
    assert "alpha: the rank is assumed" in adapter.metadata["note"]
    down, up = tensors.values()
    assert relative(changed(adapter, "block.to_q"), W + up @ down) < 1e-6


def test_formats_by_hand(tmp_path: Path) -> None:
    save_file({"x.lora_up.weight": random(OUT, 2), "x.lora_down.weight": random(2, IN)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Unknown file format 'nothing': choose auto or one of .*peft, deft_sdxl, "):
        files.read(tmp_path / "a.safetensors", file_format="nothing")
    for name in ("deft_sdxl", "deft_omnigen", "para_deft"):
        adapter = None
        try:
            adapter = files.read(tmp_path / "a.safetensors", file_format=name)
        except ValueError as error:
            assert "a.safetensors" in str(error)
        assert adapter is None or adapter.metadata["method"] == "lora"
