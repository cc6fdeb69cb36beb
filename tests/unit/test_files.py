"""Adapter files: native round trips, PEFT both ways against PEFT itself, diffusers' form, bad input."""

from __future__ import annotations

import copy
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deft_pack.deft_ops import adapter as adapters
from deft_pack.deft_ops import files, methods
from deft_pack.deft_ops.adapter import Adapter
from deft_pack.deft_ops.files import native, peft_writer

from ..tools import random

PREFIX = "diffusion_model."


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(16, 24)
        self.to_v = nn.Linear(16, 24, bias=False)
        self.small = nn.Linear(24, 2)  # fewer outputs than most ranks here


class Model(nn.Module):
    """Two blocks of linear layers, one of them narrow."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=g))

    def forward(self, x: Tensor) -> Tensor:
        return sum(block.small(block.to_q(x).tanh() + block.to_v(x)) for block in self.blocks)


LAYERS = [f"blocks.{i}.{name}" for i in range(2) for name in ("to_q", "to_v", "small")]


def randomise(model: nn.Module, seed: int = 1) -> None:
    """Give every trainable tensor values as after training."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "deft_" in name or "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.3)


def make_adapter(name: str = "deft", rank: int = 4, alpha: float | None = None, prefix: str = "", **options) -> Adapter:
    """A trained-looking adapter for `Model`, through the methods."""
    method, training = methods.get(name), methods.training_of(name)
    own = training.settings_of(alpha=alpha, **options)
    g = torch.Generator().manual_seed(2)
    layers = {}
    for layer in LAYERS:
        params = training.init(Model().get_submodule(layer).weight, rank, own, g)
        params = {key: t.detach() + 0.1 * torch.randn(t.shape, generator=g) for key, t in params.items()}
        layers[prefix + layer] = method.to_tensors(training.factors(params, own))
    return adapters.from_layers(layers)


def merged(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """W + delta(W) of each layer, both in the dtype of the weight, as PEFT merges."""
    result = {}
    for layer, group in adapters.layers(adapter).items():
        method, weight = methods.method_of(group), model.get_submodule(layer).weight.detach()
        result[layer] = weight + method.delta(method.from_tensors(group), weight).to(weight.dtype)
    return result


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor], base: nn.Module | None = None) -> float:
    """The largest difference over layers, relative to the norm of the base weight (PaRa can leave nothing of it)."""
    assert ours.keys() == theirs.keys()
    base = base or Model()
    norms = {key: base.get_submodule(key).weight.float().norm() for key in ours}
    return max(((ours[key].float() - theirs[key].float()).norm() / norms[key]).item() for key in ours)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {layer: model.get_submodule(layer).weight.detach() for layer in LAYERS}


def peft_model(config, base: nn.Module):
    from peft import get_peft_model

    model = get_peft_model(copy.deepcopy(base), config)
    randomise(model)
    return model.eval()


TARGETS = ["to_q", "to_v", "small"]
PEFT_CASES = [("relu", False), ("qr", False), ("qr", True), ("relu", True)]


# ------------------------------------------------------------------------------------------------ PEFT -> ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [None, 1, 16])
@pytest.mark.parametrize("rank", [1, 4, 30])
@pytest.mark.parametrize(("projector", "para"), PEFT_CASES)
def test_merged_weight_equals_pefts(
    tmp_path: Path, projector: str, para: bool, rank: int, alpha: int | None, dtype: torch.dtype
) -> None:
    from peft import DeftConfig

    base = Model().to(dtype)
    options = {"decomposition_method": projector, "para": para, "init_weights": False}
    config = DeftConfig(r=rank, alpha=alpha, target_modules=TARGETS, **options)
    model = peft_model(config, base)
    model.save_pretrained(tmp_path)
    adapter = files.read(tmp_path)
    size = sum(parameter.numel() for name, parameter in model.named_parameters() if "deft_" in name)
    assert adapters.count_parameters({k: t for k, t in adapter.items() if not k.endswith("right")}) == size
    theirs = weights(model.merge_and_unload())
    # A last bit of float32 may turn a rounding to bfloat16 (8 bits) over in a few places.
    assert worst(merged(base, adapter), theirs) < (1e-5 if dtype == torch.float32 else 1e-3)
    assert adapter.metadata["method"] == ("para" if para else "deft")
    assert adapter.metadata["projector"] == projector
    assert adapter.metadata["file_format"] == "peft"
    assert "note" not in adapter.metadata


def test_reading_by_bare_file_and_by_folder_agree(tmp_path: Path) -> None:
    from peft import DeftConfig

    model = peft_model(DeftConfig(r=4, alpha=8, decomposition_method="qr", target_modules=TARGETS), Model())
    model.save_pretrained(tmp_path)
    folder, bare = files.read(tmp_path), files.read(tmp_path / "adapter_model.safetensors")
    assert sorted(adapters.layers(folder)) == sorted(LAYERS)
    assert all(torch.equal(folder[key], bare[key]) for key in folder)
    assert folder.metadata == bare.metadata
    assert folder.metadata["alpha"] == "8"


def without_record(model: nn.Module, folder: Path) -> Path:
    """PEFT's weights file alone."""
    model.save_pretrained(folder)
    (folder / "adapter_config.json").unlink()
    return (folder / "adapter_model.safetensors").rename(folder / "mine.safetensors")


def test_without_a_record_the_projector_is_asked_for(tmp_path: Path) -> None:
    from peft import DeftConfig

    relu = peft_model(DeftConfig(r=4, decomposition_method="relu", target_modules=TARGETS), Model())
    path = without_record(relu, tmp_path)
    theirs = weights(relu.merge_and_unload())
    with pytest.raises(ValueError, match="mine.safetensors has no record of its projector .*: choose relu, PEFT's"):
        files.read(path)
    given = files.read(path, projector="relu")
    assert "note" not in given.metadata
    assert worst(merged(Model(), given), theirs) < 1e-5
    assert worst(merged(Model(), files.read(path, projector="qr")), theirs) > 0.01


@pytest.mark.parametrize("projector", ["relu", "qr"])
@pytest.mark.parametrize("rank", [1, 4])
def test_without_a_record_the_base_tells_the_projector(tmp_path: Path, projector: str, rank: int) -> None:
    """PEFT starts with R = right^T W, and some steps of training do not hide it."""
    from peft import DeftConfig, get_peft_model

    torch.manual_seed(5)
    wide = nn.ModuleDict({"to_q": nn.Linear(96, 80), "to_v": nn.Linear(64, 112)})
    base = {name: layer.weight.detach().clone() for name, layer in wide.items()}
    model = get_peft_model(wide, DeftConfig(r=rank, decomposition_method=projector, target_modules=["to_q", "to_v"]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(5):
        loss = model.base_model.model["to_q"](random(16, 96, seed=step)).square().mean()
        loss = loss + model.base_model.model["to_v"](random(16, 64, seed=step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = without_record(model, tmp_path)
    adapter = files.read(path, base=base.get)
    assert adapter.metadata["projector"] == projector
    assert f"{projector} is assumed (R is near its start from this base), without alpha" in adapter.metadata["note"]
    theirs = model.merge_and_unload()
    for name, group in adapters.layers(adapter).items():
        method = methods.method_of(group)
        change = theirs[name].weight.detach() - base[name]
        assert change.norm() > 1e-3 * base[name].norm()
        assert (method.delta(method.from_tensors(group), base[name]) - change).norm() < 1e-3 * change.norm()
    # Another base tells nothing, nor do weights that are missing or of other sizes.
    other = {name: random(*weight.shape, seed=9) for name, weight in base.items()}
    for weight_of in (other.get, {}.get, lambda _: random(3, 3, seed=1)):
        with pytest.raises(ValueError, match="mine.safetensors has no record of its projector"):
            files.read(path, base=weight_of)


@pytest.mark.parametrize("options", [{"para": True}, {"init_weights": False}], ids=str)
@pytest.mark.parametrize("projector", ["relu", "qr"])
def test_without_a_start_from_the_base_nothing_tells_the_projector(
    tmp_path: Path, projector: str, options: dict[str, bool]
) -> None:
    from peft import DeftConfig, get_peft_model

    torch.manual_seed(5)
    wide = nn.ModuleDict({"to_q": nn.Linear(96, 80)})
    base = {"to_q": wide["to_q"].weight.detach().clone()}
    model = get_peft_model(wide, DeftConfig(r=4, decomposition_method=projector, target_modules=["to_q"], **options))
    with pytest.raises(ValueError, match="mine.safetensors has no record of its projector"):
        files.read(without_record(model, tmp_path), base=base.get)


def test_comfyuis_names_are_those_of_its_own_training(tmp_path: Path) -> None:
    """ComfyUI's Train LoRA keeps P and R of this pack's DEFT, whose projector is qr, and no record."""
    P, R, W = torch.randn(12, 3), torch.randn(3, 8), torch.randn(12, 8)
    save_file({"diffusion_model.layer.deft_P": P, "diffusion_model.layer.deft_R": R}, tmp_path / "a.safetensors")
    adapter = files.read(tmp_path / "a.safetensors")
    assert "qr is assumed (as ComfyUI's Train LoRA writes with this pack)" in adapter.metadata["note"]
    (group,) = adapters.layers(adapter).values()
    Q = torch.linalg.qr(P).Q
    deft = methods.get("deft")
    assert torch.allclose(deft.delta(deft.from_tensors(group), W), Q @ R - Q @ Q.T @ W, atol=1e-5)


@pytest.mark.parametrize("projector", ["ppt", "svd"])
def test_projector_override(tmp_path: Path, projector: str) -> None:
    """A projector other than PEFT's, as the DEFT repository's files need it."""
    P, R = torch.randn(12, 3), torch.randn(3, 8)
    save_file({"layer.deft_P": P, "layer.deft_R": R}, tmp_path / "a.safetensors")
    W = torch.randn(12, 8)
    (group,) = adapters.layers(files.read(tmp_path / "a.safetensors", projector)).values()
    Q = P if projector == "ppt" else torch.linalg.svd(P, full_matrices=False).U
    deft = methods.get("deft")
    assert torch.allclose(deft.delta(deft.from_tensors(group), W), Q @ R - Q @ Q.T @ W, atol=1e-5)


@pytest.mark.parametrize(("rslora", "alpha_pattern"), [(False, {}), (False, {"blocks.0.to_q": 3}), (True, {})])
def test_peft_lora(tmp_path: Path, rslora: bool, alpha_pattern: dict[str, int]) -> None:
    from peft import LoraConfig

    ranks = {} if rslora else {"to_v": 2}
    options = {"use_rslora": rslora, "alpha_pattern": alpha_pattern, "rank_pattern": ranks}
    config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, **options)
    model = peft_model(config, Model())
    model.save_pretrained(tmp_path)
    adapter = files.read(tmp_path)
    assert adapter.metadata["method"] == "lora"
    assert worst(merged(Model(), adapter), weights(model.merge_and_unload())) < 1e-5


# ------------------------------------------------------------------------------------------------ ours -> PEFT


NAMES = {PREFIX + layer: layer for layer in LAYERS}
OURS = [
    ("deft", {"projector": "qr"}),
    ("deft", {"projector": "svd"}),
    ("deft", {"projector": "relu"}),
    ("para", {}),
    ("lora", {}),
]


@pytest.mark.parametrize("alpha", [None, 1.0, 2.5])
@pytest.mark.parametrize("rank", [1, 4, 30])
@pytest.mark.parametrize(("name", "options"), OURS)
def test_peft_loads_what_we_write(tmp_path: Path, name: str, options: dict, rank: int, alpha: float | None) -> None:
    from peft import PeftModel

    adapter = make_adapter(name, rank, alpha, PREFIX, **options)
    folder = peft_writer.write(adapter, tmp_path / "out", NAMES)
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    model = PeftModel.from_pretrained(copy.deepcopy(Model()), folder).eval()
    expected = merged(Model(), rename(adapter))
    ours = Model()
    for layer, weight in expected.items():
        ours.get_submodule(layer).weight.data = weight
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        assert (model(x) - ours(x)).norm() / Model()(x).norm() < 1e-5
    assert worst(expected, weights(model.merge_and_unload())) < 1e-5

    # and back into our own form
    again = files.read(folder)
    assert worst(merged(Model(), again), expected) < 1e-5


def rename(adapter: Adapter) -> Adapter:
    return Adapter({key.removeprefix(PREFIX): tensor for key, tensor in adapter.items()})


def test_peft_targets_exactly_the_named_modules(tmp_path: Path) -> None:
    """A top-level module named like the end of another one must not pull that one in."""
    from peft import PeftModel

    def tree() -> nn.Module:
        return nn.ModuleDict({"to_q": nn.Linear(16, 8), "inner": nn.ModuleDict({"to_q": nn.Linear(16, 8)})})

    para = methods.training_of("para")
    params = para.init(tree()["to_q"].weight, 2, para.settings_of(), torch.Generator())
    adapter = adapters.from_layers({"a": methods.get("para").to_tensors(para.factors(params, para.settings_of()))})
    peft_writer.write(adapter, tmp_path, {"a": "to_q"})
    model = PeftModel.from_pretrained(tree(), tmp_path)
    parameters = [name for name, _ in model.named_parameters() if "deft_P" in name]
    assert parameters == ["base_model.model.to_q.deft_P.default"]


def test_an_adapter_as_text_is_one_line() -> None:
    """ComfyUI's Preview as Text shows what is on any socket."""
    layers = {"a": {"lora_up.weight": torch.zeros(8, 2), "lora_down.weight": torch.zeros(2, 16)}}
    adapter = adapters.from_layers(layers)
    assert str(adapter) == "Adapter (file: none; layers: 1 of LoRA; tensors: 2, 0.00 MiB)"
    adapter.source = "dog.safetensors"
    adapter["a.unknown"] = torch.zeros(2**18)
    assert str(adapter) == "Adapter (file: dog.safetensors; layers: 1 of LoRA; tensors: 3, 1.00 MiB)"
    assert str(Adapter()) == "Adapter (file: none; layers: none; tensors: 0, 0.00 MiB)"


def test_peft_refusals(tmp_path: Path) -> None:
    def refused(adapter: Adapter, match: str, names=NAMES, **more) -> None:
        with pytest.raises(ValueError, match=match):
            peft_writer.write(adapter, tmp_path / "out", names, **more)
        with pytest.raises(ValueError, match=match):
            peft_writer.write_diffusers(adapter, tmp_path / "out.safetensors", names, **more)

    good = make_adapter(prefix=PREFIX)
    first = PREFIX + LAYERS[0]
    refused(make_adapter(prefix=PREFIX, projector="ppt"), f"Q of layer {first} is not orthonormal")
    refused(good, f"layer {first} has no name in diffusers", names={})
    refused(good, f"layer {first} is a convolution", shapes={first: (24, 4, 2, 2)})
    both = NAMES | {"b." + layer: "b." + layer for layer in LAYERS}
    for other, match in [
        (make_adapter("para", prefix="b."), "mixes methods"),
        (make_adapter(rank=3, prefix="b."), "has rank 3 and another has 4"),
        (make_adapter(alpha=2, prefix="b."), "different alphas"),
        (make_adapter(projector="relu", prefix="b."), "different projectors"),
    ]:
        refused(Adapter({**good, **other}), match, names=both)
    refused(Adapter({**good, "x.lora_A.weight": torch.zeros(2, 2)}), "x.lora_A.weight is of another format")
    odd = Adapter({**good, first + ".deft_right": torch.randn(24, 4)})
    refused(odd, f"projector of layer {first} is neither qr nor relu")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ diffusers


def tiny_transformer() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=12,
        out_channels=4,
        pos_embed_max_size=8,
    ).eval()


def transformer_weights(model: nn.Module, layers: list[str]) -> dict[str, Tensor]:
    return {layer: model.get_submodule(layer).weight.detach() for layer in layers}


def diffusers_merged(model: nn.Module) -> dict[str, Tensor]:
    """The merged weights of a model with injected adapters, by module name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    result = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
            result[name] = module.get_base_layer().weight.detach()
    return result


@pytest.mark.parametrize("prefix", ["", "transformer"])
@pytest.mark.parametrize(("projector", "para"), PEFT_CASES)
def test_reading_what_diffusers_saves(tmp_path: Path, projector: str, para: bool, prefix: str) -> None:
    from diffusers import StableDiffusion3Pipeline
    from peft import DeftConfig, get_peft_model_state_dict

    model = tiny_transformer()
    base = copy.deepcopy(model)
    config = DeftConfig(r=3, alpha=5, decomposition_method=projector, para=para, target_modules=["to_q", "to_out.0"])
    model.add_adapter(config)
    randomise(model)
    if prefix:  # as a pipeline's training script does
        StableDiffusion3Pipeline.save_lora_weights(
            tmp_path,
            transformer_lora_layers=get_peft_model_state_dict(model),
            transformer_lora_adapter_metadata=config.to_dict(),
        )
    else:
        model.save_lora_adapter(tmp_path)
    adapter = files.read(tmp_path / "pytorch_lora_weights.safetensors")
    assert adapter.metadata["projector"] == projector
    assert adapter.metadata["method"] == ("para" if para else "deft")
    assert all(key.startswith(prefix) for key in adapter)
    plain = Adapter({key.removeprefix("transformer.") if prefix else key: tensor for key, tensor in adapter.items()})
    assert worst(merged(base, plain), diffusers_merged(model), base) < 1e-5


@pytest.mark.parametrize("prefix", ["", "transformer"])
@pytest.mark.parametrize("name", ["deft", "para", "lora"])
def test_diffusers_reads_what_we_write(tmp_path: Path, name: str, prefix: str) -> None:
    """LoRA through diffusers' own loader. It knows no DEFT, so DEFT goes through PEFT, by the file's own record."""
    from peft import DeftConfig, inject_adapter_in_model, set_peft_model_state_dict

    model = tiny_transformer()
    base = copy.deepcopy(model)
    layers = [name for name, _ in model.named_modules() if name.endswith(("attn.to_q", "attn.to_out.0"))]
    method, training = methods.get(name), methods.training_of(name)
    own = training.settings_of(alpha=5.0)
    g = torch.Generator().manual_seed(2)
    groups = {}
    for layer in layers:
        params = training.init(model.get_submodule(layer).weight, 3, own, g)
        params = {key: t.detach() + 0.1 * torch.randn(t.shape, generator=g) for key, t in params.items()}
        groups[PREFIX + layer] = method.to_tensors(training.factors(params, own))
    adapter = adapters.from_layers(groups)
    path = tmp_path / "adapter.safetensors"
    peft_writer.write_diffusers(adapter, path, {PREFIX + layer: layer for layer in layers}, prefix=prefix)
    if name == "lora":
        model.load_lora_adapter(tmp_path, weight_name=path.name, prefix=prefix or None)
    else:
        start = f"{prefix}." if prefix else ""
        record = {key.removeprefix(start): value for key, value in read_header(path).items()}
        inject_adapter_in_model(DeftConfig(**{k: v for k, v in record.items() if k != "peft_type"}), model)
        set_peft_model_state_dict(model, {key.removeprefix(start): t for key, t in load_file(path).items()})
    assert worst(merged(base, rename(adapter)), diffusers_merged(model), base) < 1e-5
    again = files.read(path)
    plain = Adapter({key.removeprefix("transformer."): tensor for key, tensor in again.items()})
    assert worst(merged(base, plain), merged(base, rename(adapter)), base) < 1e-5


def read_header(path: Path) -> dict:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["lora_adapter_metadata"])


# ------------------------------------------------------------------------------------------------ native


@pytest.mark.parametrize("alpha", [None, 1.0, 16.0])
@pytest.mark.parametrize(("name", "options"), [*OURS, ("deft", {"projector": "ppt"})], ids=lambda value: str(value))
def test_native_round_trip(tmp_path: Path, name: str, options: dict, alpha: float | None) -> None:
    adapter = make_adapter(name, 4, alpha, PREFIX, **options)
    metadata = native.native_metadata(
        adapter,
        name="my dog",
        version="0.1.0",
        base_name="base.safetensors",
        base_hash="ab" * 32,
        **options,
        architecture="stable-diffusion-v3-medium",
        training={"steps": 100, "learning_rate": 1e-4, "seed": 0},
    )
    path = native.write(adapter, tmp_path / "a.safetensors", metadata)
    again = files.read(path)
    assert again.keys() == adapter.keys()
    assert all(torch.equal(again[key], adapter[key]) for key in adapter)
    expected = {
        "method": name,
        "rank": "4",
        "base_model": "base.safetensors",
        "base_hash": "ab" * 32,
        "pack_version": "0.1.0",
        "modelspec.title": "my dog",
        "ss_network_dim": "4",
        "ss_learning_rate": "0.0001",
        "ss_seed": "0",
        "file_format": "native",
        "modelspec.architecture": "stable-diffusion-v3-medium/lora",
        **options,
    }
    assert {key: again.metadata.get(key) for key in expected} == expected
    assert json.loads(again.metadata["training"]) == {"steps": 100, "learning_rate": 1e-4, "seed": 0}
    if alpha and name == "deft":
        assert float(again[f"{PREFIX}{LAYERS[0]}.alpha"]) == alpha
        assert again[f"{PREFIX}{LAYERS[0]}.alpha"].shape == ()


def test_the_same_adapter_is_the_same_file(tmp_path: Path) -> None:
    """Byte for byte, in this process and in another: safetensors alone orders the metadata by chance."""
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, 2)}
    files.safe.write_tensors(tensors, tmp_path / "one", {f"key {number} \u00e9": str(number) for number in range(20)})
    program = (
        "import sys, torch, tests.conftest; from deft_pack.deft_ops.files import safe; "
        "safe.write_tensors({'b': torch.ones(3), 'a': torch.zeros(2, 2)}, safe.Path(sys.argv[1]), "
        "{f'key {number} \u00e9': str(number) for number in range(20)})"
    )
    root = Path(__file__).resolve().parent.parent.parent
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "two")], cwd=root, check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", framework="pt") as file:
        assert file.metadata() == {f"key {number} \u00e9": str(number) for number in range(20)}
        assert torch.equal(file.get_tensor("b"), torch.ones(3))
        assert torch.equal(file.get_tensor("a"), torch.zeros(2, 2))


def test_native_keys() -> None:
    first = PREFIX + LAYERS[0]
    keys = [key for key in make_adapter("deft", prefix=PREFIX) if key.startswith(first)]
    assert keys == [f"{first}.deft_Q", f"{first}.deft_R", f"{first}.alpha"]
    keys = {key.rpartition(".")[2] for key in make_adapter("deft", projector="relu")}
    assert keys == {"deft_Q", "deft_right", "deft_R", "alpha"}
    assert {key.rpartition(".")[2] for key in make_adapter("para")} == {"deft_Q"}


def test_other_formats_pass_untouched(tmp_path: Path) -> None:
    """LoRA namings that ComfyUI reads itself keep their keys, tensors and header."""
    tensors = {
        "lora_unet_down_blocks_0_to_q.lora_up.weight": torch.randn(6, 2),
        "lora_unet_down_blocks_0_to_q.lora_down.weight": torch.randn(2, 5),
        "lora_unet_down_blocks_0_to_q.alpha": torch.tensor(1.0),
        "dora.lora_up.weight": torch.randn(6, 2),
        "dora.lora_down.weight": torch.randn(2, 5),
        "dora.dora_scale": torch.randn(6, 1),
        "transformer.x.lora_A.weight": torch.randn(2, 5),
        "transformer.x.lora_B.weight": torch.randn(5, 2),
        "y.lokr_w1": torch.randn(2, 2),
        "y.lokr_w2": torch.randn(2, 2).half(),
        "y.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"ss_tag_frequency": "{}"})
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "DEFT", "r": 8}')  # of another file in the same folder
    adapter = files.read(tmp_path / "a.safetensors")
    assert adapter.keys() == tensors.keys()
    assert all(torch.equal(adapter[key], tensors[key]) for key in tensors)
    assert adapter.metadata["ss_tag_frequency"] == "{}"
    assert adapters.layers(adapter).keys() == {"lora_unet_down_blocks_0_to_q", "dora"}
    assert set(adapters.foreign(adapter)) == {key for key in tensors if not key.startswith(("lora_unet", "dora."))}
    assert adapter.metadata["method"] == "mixed"


def test_writing_over_the_file_that_was_read(tmp_path: Path) -> None:
    path = native.write(make_adapter(), tmp_path / "a.safetensors")
    first = files.read(path)
    native.write(first, path, {"modelspec.title": "second"})
    second = files.read(path)
    assert second.metadata["modelspec.title"] == "second"
    assert all(torch.equal(first[key], second[key]) for key in make_adapter())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = native.write(make_adapter(), tmp_path / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        native.write(make_adapter(), path, {"training": 3})  # type: ignore[dict-item]
    (tmp_path / "b.safetensors").mkdir()
    with pytest.raises(OSError):
        native.write(make_adapter(), tmp_path / "b.safetensors")
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


# ------------------------------------------------------------------------------------------------ bad input


def raises(path: Path, *words: str, error: type[Exception] = ValueError, projector: str = "auto") -> None:
    """Reading fails in one sentence that names the file and these words."""
    with pytest.raises(error) as caught:
        files.read(path, projector)
    message = str(caught.value)
    assert str(path) in message
    assert all(word in message for word in words), message
    assert message.endswith(".")
    assert len(message.splitlines()) == 1


def test_missing_file_and_folder_without_weights(tmp_path: Path) -> None:
    raises(tmp_path / "none.safetensors", "does not exist", error=FileNotFoundError)
    raises(tmp_path, "adapter_model.safetensors does not exist", error=FileNotFoundError)


def test_damaged_files(tmp_path: Path) -> None:
    good = native.write(make_adapter(), tmp_path / "good.safetensors").read_bytes()
    header_length = int.from_bytes(good[:8], "little")
    bad = {
        "empty": (b"", "is empty"),
        "short": (good[:5], "shorter than a header"),
        "cut_header": (good[: 8 + header_length // 2], "reaches beyond its end"),
        "cut_data": (good[:-10], "cut off"),
        "garbage": (b"GIF89a" + bytes(range(256)) * 40, "of another kind"),
        "json": (good[:8] + b"x" * header_length + good[8 + header_length :], "invalid JSON"),
    }
    for name, (content, words) in bad.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        raises(path, words)
    pickle = tmp_path / "a.pt"
    pickle.write_bytes(b"PK")
    raises(pickle, "not a zip file of torch.save", ".safetensors")
    save_file({}, tmp_path / "nothing.safetensors")
    raises(tmp_path / "nothing.safetensors", "holds no tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_names_the_tensor(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    adapter = Adapter({key: tensor.to(dtype) for key, tensor in make_adapter().items()})
    adapter["blocks.1.to_v.deft_R"][1, 2] = value
    with pytest.raises(ValueError, match="a.safetensors has a NaN or infinity in blocks.1.to_v.deft_R"):
        native.write(adapter, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    save_file(dict(adapter), tmp_path / "a.safetensors")
    raises(tmp_path / "a.safetensors", "NaN or infinity in blocks.1.to_v.deft_R")


def test_wrong_shapes_name_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    z = torch.zeros
    for tensors, words in [
        ({"x.y.deft_Q": z(6, 3), "x.y.deft_R": z(2, 5)}, ["layer x.y", "deft_R has shape [2, 5]", "rank 3"]),
        ({"x.y.deft_Q": z(6, 3), "x.y.deft_R": z(3, 5), "x.y.deft_right": z(6, 2)}, ["layer x.y", "deft_right"]),
        ({"x.y.deft_Q": z(6)}, ["layer x.y", "deft_Q has shape [6]"]),
        ({"x.y.lora_up.weight": z(6, 3), "x.y.lora_down.weight": z(2, 5)}, ["layer x.y", "lora_up.weight", "[2, 5]"]),
        ({"x.y.deft_R": z(3, 5)}, ["x.y.deft_R without"]),
        ({"x.y.deft_P": z(6), "x.y.deft_R": z(3, 5)}, ["x.y.deft_P of shape [6]"]),
        ({f"{PREFIX}y.deft_P": z(6, 3) + 1, f"{PREFIX}y.deft_R": z(2, 5)}, ["deft_R has shape [2, 5]"]),
    ]:
        save_file(tensors, path)
        raises(path, *words)


def test_bad_peft_records(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    config = tmp_path / "adapter_config.json"
    save_file({"x.deft_P": torch.randn(6, 3)}, path)
    config.write_text("{")
    with pytest.raises(ValueError, match="adapter_config.json is not valid JSON"):
        files.read(tmp_path)
    config.write_text("[]")
    with pytest.raises(ValueError, match="adapter_config.json must hold a JSON object"):
        files.read(tmp_path)
    config.write_text('{"peft_type": "POLY"}')
    raises(path, "of type POLY", "cannot be merged")
    config.write_text('{"peft_type": "DEFT", "decomposition_method": "nmf"}')
    with pytest.raises(ValueError, match="Unknown projector 'nmf'"):
        files.read(tmp_path)
    with pytest.raises(ValueError, match="Unknown projector 'none'"):
        files.read(tmp_path, "none")
    save_file({"x.lora_A.weight": torch.zeros(2, 4), "x.lora_B.weight": torch.zeros(4, 2)}, path)
    config.write_text('{"peft_type": "LORA", "lora_alpha": 2, "fan_in_fan_out": true}')
    raises(path, "fan_in_fan_out")


def test_layers_are_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading, checking and looking at an adapter ask the method once a layer, and again where a tensor is another."""
    asked: list[int] = []
    parse = adapters.ParsedLayer.factors.func  # type: ignore[attr-defined]
    counted = functools.cached_property(lambda layer: (asked.append(1), parse(layer))[1])
    counted.__set_name__(adapters.ParsedLayer, "factors")
    monkeypatch.setattr(adapters.ParsedLayer, "factors", counted)
    made = make_adapter("deft", prefix=PREFIX)
    count = len(adapters.layers(made))
    native.write(made, tmp_path / "a.safetensors")
    asked.clear()
    adapter = files.read(tmp_path / "a.safetensors")
    adapters.validate(adapter)
    first = adapters.parsed(adapter)
    assert len(asked) == count == len(first.layers)
    assert adapters.parsed(adapter) is first
    key = next(key for key in adapter if key.endswith(".deft_R"))
    adapter[key] = adapter[key] + 1
    second = adapters.parsed(adapter)
    assert second is not first
    name = key.removesuffix(".deft_R")
    assert torch.equal(second.layers[name].factors.R, adapter[key])
    assert not torch.equal(first.layers[name].factors.R, adapter[key])
    del adapter[key]
    assert name not in adapters.layers(adapter) or "deft_R" not in adapters.layers(adapter)[name]


def test_what_is_parsed_cannot_be_changed_by_its_copies() -> None:
    adapter = make_adapter("deft")
    adapters.layers(adapter).clear()
    group = next(iter(adapters.layers(adapter).values()))
    group.clear()
    adapters.foreign(adapter)["x"] = torch.zeros(1)
    assert all(adapters.layers(adapter).values())
    assert adapters.foreign(adapter) == {}
