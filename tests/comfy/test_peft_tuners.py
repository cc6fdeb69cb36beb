"""Every tuner that PEFT can merge, on ComfyUI's weights: what PEFT's merge_and_unload gives on diffusers' model."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import models
from .architectures import call_text_model, call_transformers
from .pack import Pack

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LINEAR = {
    "sd15": [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn1.to_out.0", f"{BLOCK}.ff.net.2"],
    "sd3": [
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_k",
        "transformer_blocks.0.attn.to_v",
        "transformer_blocks.0.attn.add_k_proj",
        "transformer_blocks.1.ff.net.0.proj",
        "norm_out.linear",
    ],
}
CONVOLUTIONS = [
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.0.attentions.0.proj_in",
]
NORMS = {
    "sd15": ["down_blocks.0.resnets.0.norm1", f"{BLOCK}.norm1", f"{BLOCK}.attn1.to_out.0"],
    "sd3": ["transformer_blocks.0.attn.to_k", "norm_out.linear"],
}


@dataclass
class Kind:
    """One tuner with settings: PEFT's class, its arguments, and whether it goes on convolutions too."""

    config: str
    options: dict[str, Any] = field(default_factory=dict)
    convolutions: bool = False
    layers: str = "linear"

    def build(self, targets: list[str]) -> Any:
        import peft

        options = dict(self.options)
        if self.layers == "parameters":
            options["target_parameters"], targets = [f"{target}.weight" for target in targets], []
        if "feedforward_modules" in options:  # PEFT wants whole names
            ends = tuple(options["feedforward_modules"])
            options["feedforward_modules"] = [target for target in targets if target.endswith(ends)]
        return getattr(peft, self.config)(target_modules=targets, **options)


LORA = {"r": 4, "lora_alpha": 6}
KINDS = {
    "adalora": Kind("AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10, "lora_alpha": 6}, True),
    "adamss": Kind("AdamssConfig", {"r": 8, "num_subspaces": 2, "subspace_rank": 2}),
    "beft": Kind("BeftConfig", layers="biased"),
    "boft": Kind("BOFTConfig", {"boft_block_size": 4}, True),
    "boft-number": Kind("BOFTConfig", {"boft_block_size": 0, "boft_block_num": 4}, True),
    "c3a": Kind("C3AConfig", {"block_size": 16}),
    "delora": Kind("DeloraConfig", {"r": 4}),
    "fourierft": Kind("FourierFTConfig", {"n_frequency": 20}),
    "frod": Kind("FrodConfig", {"progressbar": False}),
    "glora": Kind("GloraConfig", {"r": 4}),
    "glora-vector": Kind("GloraConfig", {"config_A_B": "vector", "config_C": "vector", "config_D_E": "vector"}),
    "glora-constant": Kind("GloraConfig", {"config_A_B": "constant", "config_C": "none", "config_D_E": "constant"}),
    "gralora": Kind("GraloraConfig", {"r": 8, "gralora_k": 2}),
    "gralora-hybrid": Kind("GraloraConfig", {"r": 8, "gralora_k": 2, "hybrid_r": 4}),
    "hira": Kind("HiraConfig", {"r": 4}, True),
    "hra": Kind("HRAConfig", {"r": 4}, True),
    "hra-gs": Kind("HRAConfig", {"r": 4, "apply_GS": True}, True),
    "ia3": Kind("IA3Config", {"feedforward_modules": ["to_k", "proj_in"]}, True),
    "ln_tuning": Kind("LNTuningConfig", layers="norms"),
    "miss": Kind("MissConfig", {"r": 4}),
    "miss-bat": Kind("MissConfig", {"r": 4, "init_weights": "bat"}),
    "miss-mini": Kind("MissConfig", {"r": 4, "mini_r": 2, "init_weights": "mini"}),
    "osf": Kind("OSFConfig", {"effective_rank": 4}),
    "peanut": Kind("PeanutConfig", {"r": 4, "depth": 2}),
    "psoft": Kind("PsoftConfig", {"r": 4}),
    "psoft-plain": Kind("PsoftConfig", {"r": 4, "psoft_orth": False, "psoft_mag_a": False, "psoft_mag_b": False}),
    "pvera": Kind("PveraConfig", {"r": 4}),
    "pvera-drawn": Kind("PveraConfig", {"r": 4, "save_projection": False}),
    "randlora": Kind("RandLoraConfig", {"r": 4}),
    "randlora-drawn": Kind("RandLoraConfig", {"r": 4, "save_projection": False, "sparse": True}),
    "road-1": Kind("RoadConfig", {"variant": "road_1", "group_size": 16}),
    "road-2": Kind("RoadConfig", {"variant": "road_2", "group_size": 16}),
    "road-4": Kind("RoadConfig", {"variant": "road_4", "group_size": 16}),
    "shira": Kind("ShiraConfig", {"r": 4}),
    "supertuning": Kind("SupertuningConfig", {"sparsity": 0.9}),
    "supertuning-low-rank": Kind("SupertuningConfig", {"sparsity": 0.9, "r": 4, "lora_alpha": 6}),
    "supertuning-drawn": Kind("SupertuningConfig", {"sparsity": 0.9, "save_precomputed_indices": False}),
    "tinylora": Kind("TinyLoraConfig", {"r": 2, "u": 8}),
    "tinylora-half": Kind("TinyLoraConfig", {"r": 2, "u": 8, "weight_tying": 0.5}),
    "tinylora-tied": Kind("TinyLoraConfig", {"r": 2, "u": 8, "weight_tying": 1.0}),
    "unilora": Kind("UniLoraConfig", {"r": 2, "theta_d_length": 64, "save_indices": True}),
    "vblora": Kind("VBLoRAConfig", {"r": 2, "num_vectors": 8, "vector_length": 16}),
    "vblora-top": Kind("VBLoRAConfig", {"r": 2, "num_vectors": 8, "vector_length": 16, "save_only_topk_weights": True}),
    "vera": Kind("VeraConfig", {"r": 4}),
    "vera-drawn": Kind("VeraConfig", {"r": 4, "save_projection": False}),
    "waveft": Kind("WaveFTConfig", {"n_frequency": 20}),
    "waveft-proportional": Kind("WaveFTConfig", {"n_frequency": 20, "proportional_parameters": True}),
    "pissa": Kind("LoraConfig", {**LORA, "init_lora_weights": "pissa"}),
    "olora": Kind("LoraConfig", {**LORA, "init_lora_weights": "olora"}),
    "olora-patterns": Kind(
        "LoraConfig",
        {
            **LORA,
            "init_lora_weights": "olora",
            "rank_pattern": {"to_k": 2},
            "alpha_pattern": {"attn.?.to_q": 3},
            "use_rslora": True,
        },
    ),
    "pissa-dora": Kind("LoraConfig", {**LORA, "init_lora_weights": "pissa", "use_dora": True}),
    "kasa": Kind("LoraConfig", {**LORA, "kasa_config": {}}),
    "monteclora": Kind("LoraConfig", {**LORA, "monteclora_config": {"num_samples": 3}}),
    "bdlora": Kind(
        "LoraConfig",
        {
            **LORA,
            "use_bdlora": {
                "target_modules_bd_a": ["to_q"],
                "nblocks": 2,
                "target_modules_bd_b": ["to_k"],
                "match_strict": False,
            },
        },
    ),
    "velora": Kind("LoraConfig", {**LORA, "velora_config": {"num_groups": 8}}),
    "parameters": Kind("LoraConfig", LORA, layers="parameters"),
    "qalora": Kind("LoraConfig", {**LORA, "use_qalora": True}, True),
}
SCALES = {"ia3": 0.3, "boft": 0.3, "tinylora": 1.0, "unilora": 0.3, "vblora": 1.0}
REFUSED = {
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "LILY",
    "MULTITASK_PROMPT_TUNING",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "SHADOW",
    "TRAINABLE_TOKENS",
    "XLORA",
}
HERE = {"DEFT", "LORA", "LOHA", "LOKR", "OFT"}


@cache
def twins(name: str) -> tuple[nn.Module, Any]:
    """diffusers' model, and ComfyUI's with its weights."""
    network = models.diffusers_sd15() if name == "sd15" else models.diffusers_sd3()
    return network, models.comfy_sd15(network) if name == "sd15" else models.comfy_sd3(network)


def targets_of(kind: Kind, model: str) -> list[str]:
    if kind.layers == "norms":
        return NORMS[model]
    network = dict(twins(model)[0].named_modules())
    targets = LINEAR[model] + (CONVOLUTIONS if kind.convolutions and model == "sd15" else [])
    if kind.layers == "parameters":
        return targets[:2]
    return [target for target in targets if kind.layers != "biased" or network[target].bias is not None]


WRITTEN: dict[tuple[str, str], dict[str, bytes]] = {}  # the files of a kind and a model


def saved(kind: Kind, model: str, folder: Path) -> nn.Module:
    """A random adapter on diffusers' model, saved; PEFT's merged model."""
    import peft

    scale = next((value for name, value in SCALES.items() if kind.config.lower().startswith(name)), 0.1)
    with torch.random.fork_rng(devices=[]):
        wrapped = peft.get_peft_model(copy.deepcopy(twins(model)[0]), kind.build(targets_of(kind, model)))
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(scale * models.random(*parameter.shape, seed=500 + index))
    wrapped.save_pretrained(folder)
    WRITTEN[repr(kind), model] = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    return wrapped.merge_and_unload()


def write(kind: Kind, model: str, folder: Path) -> None:
    """The files of `saved`, which PEFT writes once for all tests that need no more of it."""
    if (repr(kind), model) not in WRITTEN:
        saved(kind, model, folder)
    for name, content in WRITTEN[repr(kind), model].items():
        (folder / name).write_bytes(content)


def piece(pack: Pack, state: dict[str, Tensor], target: Any, ending: str) -> Tensor:
    """What of ComfyUI's weights diffusers calls a layer."""
    part, function = pack.names.target_slice(target), pack.names.target_function(target)
    value = state[pack.names.target_key(target).removesuffix("weight") + ending]
    value = value if part is None else value.narrow(*part)
    return value if function is None else function(value)


def errors(pack: Pack, model: str, weights: dict[str, Tensor], network: nn.Module) -> dict[str, float]:
    """How far each tensor of ComfyUI's model is from that of diffusers' model, by diffusers' names."""
    table = pack.names.diffusers_names(twins(model)[1])
    state = {name: value for name, value in network.state_dict().items() if name.rpartition(".")[0] in table}
    assert len(state) > 50
    result = {}
    for name, value in state.items():
        layer, _, ending = name.rpartition(".")
        result[name] = models.relative(piece(pack, weights, table[layer], ending), value)
    return result


def changed(network: nn.Module, merged: nn.Module) -> dict[str, float]:
    """The tensors that PEFT has changed, and by how much."""
    before = network.state_dict()
    sizes = {name: models.relative(value, before[name]) for name, value in merged.state_dict().items()}
    return {name: size for name, size in sizes.items() if size}


@pytest.mark.parametrize("model", ["sd15", "sd3"])
@pytest.mark.parametrize("name", KINDS)
def test_tuner_changes_what_peft_merges(pack: Pack, tmp_path: Path, name: str, model: str) -> None:
    """Compared on slices and re-ordered rows of fused weights; at other strengths a part of it; the same as a LoRA."""
    kind = KINDS[name]
    network, patcher = twins(model)
    merged = saved(kind, model, tmp_path)
    sizes = changed(network, merged)
    assert {tensor.rpartition(".")[0] for tensor in sizes} == set(targets_of(kind, model))
    assert min(sizes.values()) > 1e-4

    state = torch.random.get_rng_state()
    adapter = pack.files.read(tmp_path)
    assert adapter.metadata["file_format"] == "peft_tuners"
    patched, _, report = pack.apply(adapter, patcher)
    assert not report.unmatched, report.text()
    assert report.matched == len(sizes), report.text()
    weights = models.patched_weights(patched)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert max(errors(pack, model, weights, merged).values()) < 1e-6
    base = models.weights(patcher)
    if model == "sd3":
        half = models.patched_weights(pack.apply(adapter, patcher, strength_model=-0.5)[0])
        for key, value in half.items():
            assert torch.allclose(value, base[key] - 0.5 * (weights[key] - base[key]), rtol=1e-5, atol=1e-5), key
        return
    lora, text = pack.export(adapter, patcher)
    assert "exact" in text.text()
    exported = models.patched_weights(pack.apply(lora, patcher)[0])
    for key, value in exported.items():
        assert models.relative(value - base[key], weights[key] - base[key]) < 1e-4 or torch.equal(
            value, weights[key]
        ), key


SOME = ["boft", "glora", "hra", "ia3", "ln_tuning", "vera", "pissa"]


@pytest.mark.parametrize("name", SOME)
def test_saved_again_inspected_stacked_and_cast(pack: Pack, tmp_path: Path, name: str) -> None:
    """A native file; Adapter Info's rows; two of them from one base; the road of weights patched while cast."""
    import comfy.model_patcher

    kind, (network, patcher) = KINDS[name], twins("sd3")
    sizes = changed(network, saved(kind, "sd3", tmp_path))
    adapter = pack.files.read(tmp_path)
    patched = pack.apply(adapter, patcher)[0]
    base, weights = models.weights(patcher), models.patched_weights(patched)
    native = pack.files.read(pack.native.write(adapter, tmp_path / "native" / "a.safetensors"))
    with torch.inference_mode():  # as in a node
        again = models.patched_weights(pack.apply(native, patcher)[0])
    assert all(torch.equal(again[key], weights[key]) for key in weights)

    info = pack.inspect(adapter, patcher)
    assert not info.unmatched
    assert not info.unused
    assert len(info.rows) == info.matched == len(sizes)
    assert info.method == ("replaced" if name == "ln_tuning" else name.partition("-")[0])
    assert pack.inspect(adapter).method == info.method
    assert all(row.change.norm > 0 for row in info.rows)

    twice = models.patched_weights(pack.apply(adapter, patched, stacking="from_base")[0])
    for key, value in twice.items():
        assert torch.allclose(value, base[key] + 2 * (weights[key] - base[key]), rtol=1e-5, atol=1e-5), key
    with pytest.raises(ValueError, match="need the weight and cannot work on activations: choose weights"):
        pack.apply(adapter, patcher, mode="activations")

    for key in patched.patches:
        patch = comfy.model_patcher.LowVramPatch(key, patched.patches)
        buffer = torch.zeros(patch.memory_required(), dtype=torch.uint8)
        patch.prepare(buffer, None)
        assert models.relative(patch(base[key].clone()), weights[key]) < 1e-6, key


class BlockDiagonal:
    """What BOFT's CUDA extension gives for [n, d, k, k], as PEFT's FastBlockDiag describes it: n of [d k, d k]."""

    def forward(self, blocks: Tensor) -> tuple[Tensor]:
        count, number, size, _ = blocks.shape
        result = torch.zeros(count, number * size, number * size)
        for index in range(number):
            rows = slice(index * size, (index + 1) * size)
            result[:, rows, rows] = blocks[:, index]
        return (result,)


@pytest.mark.parametrize("factors", [2, 3])
def test_boft_of_several_factors_needs_no_extension(
    pack: Pack, tmp_path: Path, factors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.boft import layer

    kind = Kind("BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": factors}, True)
    with monkeypatch.context() as patch:
        patch.setattr(layer, "get_fbd_cuda", BlockDiagonal)
        merged = saved(kind, "sd15", tmp_path)
    before = layer.get_fbd_cuda
    patched, _, report = pack.apply(pack.files.read(tmp_path), twins("sd15")[1])
    assert not report.unmatched
    assert max(errors(pack, "sd15", models.patched_weights(patched), merged).values()) < 1e-6
    assert layer.get_fbd_cuda is before


@pytest.mark.parametrize("name", ["vera-drawn", "hra", "glora"])
def test_text_encoder(pack: Pack, text_pairs: Any, tmp_path: Path, name: str) -> None:
    import peft

    entry, network, clip = text_pairs("SD1.5 CLIP-L")
    targets = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        wrapped = peft.get_peft_model(copy.deepcopy(network), KINDS[name].build(targets))
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.1 * models.random(*parameter.shape, seed=500 + index))
    wrapped.save_pretrained(tmp_path)
    adapter = pack.files.read(tmp_path)
    _, patched, report = pack.apply(adapter, None, clip)
    assert not report.unmatched
    expected = call_transformers(wrapped.merge_and_unload())
    assert models.relative(expected, call_transformers(network)) > 1e-3
    assert models.relative(call_text_model(patched, entry.part, network), expected) < 1e-5
    with pytest.raises(ValueError, match="No layer of adapter_model.safetensors fits|connect the CLIP"):
        pack.apply(adapter, twins("sd15")[1])


def test_an_exported_lora_can_be_cut_to_a_rank(pack: Pack, tmp_path: Path) -> None:
    patcher = twins("sd15")[1]
    write(KINDS["vera"], "sd15", tmp_path)
    lora, report = pack.export(pack.files.read(tmp_path), patcher, rank=2)
    assert set(report.ranks) == {2}
    assert 0.3 < report.energy < 1
    assert "of the change's squared norm is kept" in report.text()
    assert pack.export(pack.files.read(tmp_path), patcher, rank=4)[1].energy == pytest.approx(1, abs=1e-5)


def test_saved_modules_and_biases_of_such_a_folder_are_applied(pack: Pack, tmp_path: Path) -> None:
    import peft

    network, patcher = twins("sd3")
    config = peft.VeraConfig(r=4, bias="vera_only", target_modules=LINEAR["sd3"], modules_to_save=["proj_out"])
    with torch.random.fork_rng(devices=[]):
        wrapped = peft.get_peft_model(copy.deepcopy(network), config)
    for index, (_, parameter) in enumerate(wrapped.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(0.1 * models.random(*parameter.shape, seed=500 + index))
    wrapped.save_pretrained(tmp_path)
    merged = wrapped.merge_and_unload()
    patched, _, report = pack.apply(pack.files.read(tmp_path), patcher)
    assert not report.unmatched
    assert report.methods == {"peft": len(LINEAR["sd3"]), "replaced": len(LINEAR["sd3"]) + 2}
    assert max(errors(pack, "sd3", models.patched_weights(patched), merged).values()) < 1e-6


def test_every_type_of_peft_is_known(pack: Pack) -> None:
    """A type that is new in PEFT is here until it is computed or refused by name."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    names = {config.__name__: kind.value for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    tried = {names[kind.config] for kind in KINDS.values()} - {"LORA"}
    assert tried == pack.records.MERGEABLE
    assert {kind.value for kind in peft.PeftType} == tried | REFUSED | HERE


@pytest.mark.parametrize("kind", sorted(REFUSED) + ["BONE", "NEW2027"])
def test_what_cannot_be_merged_is_refused_by_name(pack: Pack, tmp_path: Path, kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind, "r": 4}))
    name = f"base_model.model.{LINEAR['sd15'][0]}.{kind.lower()}_A.weight"
    save_file({name: torch.ones(4, 32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"adapter_model.safetensors holds a PEFT adapter of type {kind}, .+\.$"):
        pack.files.read(tmp_path)


# ------------------------------------------------------------------------------------------------- damaged or hostile


def damaged(kind: Kind, folder: Path, tensors: Any = None, record: Any = None) -> None:
    """A file of the small UNet with other tensors, by a function, or other fields in its record."""
    write(kind, "sd15", folder)
    path = folder / "adapter_model.safetensors"
    if tensors is not None:
        altered = tensors(load_file(path))
        save_file({name: value.contiguous() for name, value in altered.items()}, path)
    if record is not None:
        place = folder / "adapter_config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | record))


def without(end: str) -> Any:
    """Take out the first tensor of such a name."""
    return lambda tensors: {
        name: value for name, value in tensors.items() if name != min(other for other in tensors if other.endswith(end))
    }


def cut(end: str) -> Any:
    """Take the last row off the first tensor of such a name."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = min(other for other in tensors if other.endswith(end))
        return tensors | {name: tensors[name][:-1]}

    return change


def filled(end: str, value: float) -> Any:
    """Another value in the first tensor of such a name."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = min(other for other in tensors if other.endswith(end))
        return tensors | {name: torch.full_like(tensors[name], value)}

    return change


def whole(end: str) -> Any:
    """Whole numbers in the first tensor of such a name."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = min(other for other in tensors if other.endswith(end))
        return tensors | {name: torch.ones_like(tensors[name], dtype=torch.int64)}

    return change


def strange(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {f"base_model.model.{LINEAR['sd15'][0]}.vera_extra": torch.ones(2)}


def unrelated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"base_model.model.something": torch.ones(2)}


HUGE = 10**7
CASES: list[tuple[str, str, Any, dict[str, Any] | None, str]] = [
    ("rank", "vera", None, {"r": HUGE}, r"vera_lambda_d has shape \[4\], but \[10000000\] is needed"),
    ("rank-text", "vera", None, {"r": "4"}, "the record has r = 4, but a number"),
    ("rank-none", "hra", None, {"r": None}, "the record has r = None, but a number"),
    ("rank-less", "hra", None, {"r": -1}, "the record has r = -1, but a number"),
    ("rank-pattern", "hira", None, {"rank_pattern": {"to_q": HUGE}}, r"hira_A has shape \[4, 32\], but \[10000000"),
    ("vectors", "vblora", None, {"num_vectors": 10**8}, r"vblora_logits_A has shape \[2, .* but \[2, any, 100000000\]"),
    ("theta", "unilora", None, {"theta_d_length": 10**9}, r"unilora_theta_d has shape \[64\]"),
    ("frequencies", "fourierft", None, {"n_frequency": 10**9}, r"fourierft_spectrum has shape \[20\], but \[10{9}\]"),
    ("terms", "psoft", None, {"num_cayley_neumann_terms": 10**9}, "num_cayley_neumann_terms = 1000000000"),
    ("depth", "peanut", None, {"depth": 10**9}, "depth = 1000000000"),
    ("tying", "tinylora", None, {"weight_tying": "x"}, "weight_tying = x in its record, but a number is needed"),
    ("alpha", "gralora", None, {"alpha": float("inf")}, "alpha = inf in its record, but a number is needed"),
    ("missing", "vera", without(".vera_lambda_b"), None, "vera_lambda_b is missing"),
    ("missing-deep", "peanut", without("encoders.1.weight"), None, "peanut_encoders.1.weight is missing"),
    ("missing-shared", "vera", without("vera_A"), None, "has no base_model.vera_A"),
    ("missing-magnitude", "pissa-dora", without("lora_magnitude_vector"), None, "lora_magnitude_vector is missing"),
    ("strange", "vera", strange, None, "vera_extra does not belong to VERA"),
    ("unrelated", "hra", unrelated, None, "has base_model.model.something, which is no tensor of its tuner"),
    ("size", "vera", cut(".vera_lambda_d"), None, r"vera_lambda_d has shape \[3\], but \[4\] is needed"),
    ("places", "unilora", filled("unilora_indices_A", 64), None, "unilora_indices_A has indices up to 64"),
    ("not-finite", "hra", filled("hra_u", float("nan")), None, "NaN or infinity"),
    ("whole-numbers", "hira", whole("hira_A"), None, "hira_A is of int64, but floating-point numbers are needed"),
    (
        "field",
        "hra",
        None,
        {"new_field": 3},
        "has the field new_field = 3 in its record, which this pack does not know",
    ),
    ("transposed", "hira", None, {"fan_in_fan_out": True}, "for transposed weights"),
    ("pattern", "hira", None, {"rank_pattern": {"(a*)*b": 3}}, "pattern"),
    ("no-indices", "unilora", None, {"save_indices": False}, "UniLoRA without its indices"),
    ("no-projections", "frod", None, {"save_projection": False}, "FRoD without its projections"),
    ("no-projections-tiny", "tinylora", None, {"save_projection": False}, "TinyLoRA without its projections"),
]


@pytest.mark.timeout(60)  # a hostile pattern or size would take hours
@pytest.mark.parametrize(
    ("name", "tensors", "record", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_damaged_and_hostile_files_are_refused(
    pack: Pack, tmp_path: Path, name: str, tensors: Any, record: dict[str, Any] | None, message: str
) -> None:
    damaged(KINDS[name], tmp_path, tensors, record)
    with pytest.raises(ValueError, match=message) as caught:
        pack.files.read(tmp_path)
    assert "adapter_model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_targets_are_the_tensors_and_no_pattern_of_the_file(pack: Pack, tmp_path: Path) -> None:
    """A pattern that PEFT would hang in; places outside of a weight; another model."""
    damaged(KINDS["shira"], tmp_path, None, {"target_modules": "(a+)+$" + "a" * 40, "exclude_modules": "((.*)*)*x"})
    patcher = twins("sd15")[1]
    adapter = pack.files.read(tmp_path)
    assert pack.apply(adapter, patcher)[2].matched == 4
    with pytest.raises(ValueError, match="No layer of adapter_model.safetensors fits"):
        pack.apply(adapter, models.unet("sdxl"))
    key = next(key for key in adapter if key.endswith("shira_indices"))
    adapter[key] = adapter[key] + 100
    report = pack.apply(adapter, patcher)[2]
    assert report.matched == 3
    assert "shira_indices has indices up to" in report.text()


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("peanut", {"act_fn": "nonsense"}, "PEFT could not compute PEANUT for a weight of .*nonsense"),
        ("waveft", {"wavelet_family": "nonsense"}, "PEFT could not compute WAVEFT for a weight of .*nonsense"),
        ("pissa", {"lora_alpha": 0}, "PEFT computes a NaN or infinity from LORA"),
    ],
)
def test_what_peft_cannot_compute_is_told_before_anything_is_patched(
    pack: Pack, tmp_path: Path, name: str, record: dict[str, Any], reason: str
) -> None:
    damaged(KINDS[name], tmp_path, None, record)
    with pytest.raises(ValueError, match=f"No layer of adapter_model.safetensors fits .*{reason}"):
        pack.apply(pack.files.read(tmp_path), twins("sd15")[1])


def test_a_record_in_a_native_file_is_not_trusted(pack: Pack, tmp_path: Path) -> None:
    write(KINDS["vera"], "sd15", tmp_path)
    adapter = pack.files.read(tmp_path)
    record = json.loads(adapter.metadata["peft_record"])
    for change, reason in (
        ({"r": HUGE}, r"vera_lambda_d has shape \[4\], but \[10000000\] is needed"),
        ({"r": None}, "r = None"),
        ({"peft_type": "LILY"}, "cannot be read"),
        (None, "lacks fields"),
    ):
        changed_record = {"": record[""] | change} if change else {"": {"peft_type": "VERA"}}
        adapter.metadata["peft_record"] = json.dumps(changed_record)
        path = pack.native.write(adapter, tmp_path / "native" / "a.safetensors")
        with pytest.raises(ValueError, match=reason):
            pack.apply(pack.files.read(path), twins("sd15")[1])


@pytest.mark.parametrize("name", ["vblora-top", "vera", "tinylora", "glora", "hira"])
def test_files_of_half_precision(pack: Pack, tmp_path: Path, name: str) -> None:
    def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.bfloat16() if value.is_floating_point() else value for key, value in tensors.items()}

    patcher, base = twins("sd15")[1], models.weights(twins("sd15")[1])
    write(KINDS[name], "sd15", tmp_path)
    expected = models.patched_weights(pack.apply(pack.files.read(tmp_path), patcher)[0])
    damaged(KINDS[name], tmp_path, halved)
    patched, _, report = pack.apply(pack.files.read(tmp_path), patcher)
    assert not report.unmatched
    weights = models.patched_weights(patched)
    keys = [key for key in base if not torch.equal(base[key], expected[key])]
    assert keys
    assert all(models.relative(weights[key] - base[key], expected[key] - base[key]) < 0.05 for key in keys)


@pytest.mark.parametrize("name", ["vera", "hra", "tinylora", "olora"])
def test_the_adapters_name_may_be_left_in(pack: Pack, tmp_path: Path, name: str) -> None:
    """The name `default` may stand in the keys, as in a raw state dictionary."""

    def named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for key, value in tensors.items():
            parts = key.split(".")
            place = next(index for index, part in enumerate(parts) if part.startswith(name.replace("olora", "lora")))
            renamed[".".join([*parts[: place + 1], "default", *parts[place + 1 :]])] = value
        return renamed

    patcher = twins("sd15")[1]
    write(KINDS[name], "sd15", tmp_path)
    expected = models.patched_weights(pack.apply(pack.files.read(tmp_path), patcher)[0])
    damaged(KINDS[name], tmp_path, named)
    weights = models.patched_weights(pack.apply(pack.files.read(tmp_path), patcher)[0])
    assert all(torch.equal(weights[key], expected[key]) for key in weights)


@pytest.mark.parametrize("name", ["hra", "vera-drawn", "boft", "ia3", "tinylora"])
def test_a_model_of_another_size_is_told(pack: Pack, tmp_path: Path, name: str) -> None:
    write(KINDS[name], "sd3", tmp_path)
    with pytest.raises(ValueError, match=r"No layer of adapter_model.safetensors fits \(their sizes differ\): .* fit"):
        pack.apply(pack.files.read(tmp_path), models.sd3())


def test_a_cut_file_says_so(pack: Pack, tmp_path: Path) -> None:
    write(KINDS["hra"], "sd15", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        pack.files.read(tmp_path)
