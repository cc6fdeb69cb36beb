"""Apple's and Intel's GPUs: what they lack is never asked of them, and what comes out is what a CPU gives.

None of them was at hand. A pretended device stands in (see `pretended`), which refuses float64, every operation of the
table below and tensors of two devices. ComfyUI takes it for one of Apple's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import models, pretended
from .test_export import CLIP_CONFIG, layer_shapes, random_layers, small_clip
from .test_extraction import fine_tuned
from .test_info import mixed
from .test_training import as_loaded, one_step, settings

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = 1 << 40
CLIP_WIDTH = CLIP_CONFIG["hidden_size"]

# What is not asked of a device other than a CPU or CUDA, and why. "MPS: yaml" says that native_functions.yaml of
# PyTorch 2.12.1 dispatches nothing to MPS; "XPU: fallback" that src/ATen/native/xpu/XPUFallback.cpp of
# intel/torch-xpu-ops (ab84f925, August 2026) computes it on the CPU, each call with copies to and fro. Numbers are
# issues and pull requests of pytorch/pytorch, or of intel/torch-xpu-ops where that is said. float64 itself: MPS has
# none (122602); Arc A-series has none (torch-xpu-ops 1742), and ComfyUI counts on none on any Intel GPU
# (comfy.model_management.supports_fp64).
LACKING = {
    "linalg_qr": "MPS: missing until 2026 (177370), then 25 to 250 times as slow as on the CPU (187567). XPU: fallback "
    "until June 2026 (torch-xpu-ops 4043)",
    "geqrf": "MPS: yaml. XPU: fallback until torch-xpu-ops 4043, which itself computes it on the CPU (2399)",
    "ormqr": "MPS: yaml, 195276. XPU: fallback",
    "_linalg_svd": "MPS: yaml; MPSFallback.mm takes linalg_svd to the CPU, svdvals is missing; the first of its own "
    "(185954) gave a U that is not orthogonal (196112). XPU: fallback",
    "linalg_pinv": "put together of the one before and the one after",
    "_linalg_eigh": "MPS: yaml, 151874. XPU: fallback",
    "linalg_eig": "MPS: yaml, 195278. XPU: fallback",
    "_linalg_eigvals": "MPS: yaml, 195278. XPU: fallback",
    "linalg_lstsq": "MPS: UNIMPLEMENTED_XFAILLIST of torch/testing/_internal/common_mps.py, 2.12.1. XPU: fallback",
    "linalg_ldl_factor_ex": "MPS: yaml. XPU: fallback",
    "linalg_ldl_solve": "MPS: yaml. XPU: fallback",
    "linalg_matrix_exp": "MPS: yaml. XPU: fallback",
    "_linalg_solve_ex": "MPS: missing until 2025 (148547)",
    "linalg_cholesky_ex": "MPS: since 2025 (146799). XPU: fallback",
    "linalg_solve_triangular": "MPS: up to 13 times as slow as on the CPU for stacks of small matrices (198304). XPU: "
    "a warning that it is a fallback without oneMKL (BatchLinearAlgebra.cpp)",
    "triangular_solve": "XPU: fallback",
    "cholesky_inverse": "XPU: fallback",
    "linalg_lu": "XPU: fallback",
    "lu_unpack": "XPU: fallback",
    "_adaptive_avg_pool2d": "MPS: only where sizes divide each other (96056, 192413), which is F.interpolate's area",
    "_adaptive_avg_pool3d": "MPS: yaml, 173047",
}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The pretended device."""
    import comfy.model_management as management

    def memory(device: Any = None, part: bool = False, **options: Any) -> Any:
        return (MEMORY, MEMORY) if part or any(options.values()) else MEMORY

    monkeypatch.setattr(management, "get_free_memory", memory)
    monkeypatch.setattr(management, "get_total_memory", memory)
    # ComfyUI patches weights in half precision on such a device, which has nothing to do with it here.
    monkeypatch.setattr(management, "lora_compute_dtype", lambda device: torch.float32)
    monkeypatch.setattr(management, "is_device_mps", lambda device: getattr(device, "type", "") == "meta")
    with pretended.pretended(LACKING) as stand_in:
        yield stand_in
        management.unload_all_models()


def on(device: torch.device, make: Callable[[], Any]) -> Any:
    """A model that ComfyUI computes with on a device."""
    model = make()
    model.load_device = device
    return model


def loaded(model: Any) -> Any:
    """The model with its weights on its device."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model], force_full_load=True)
    first = next(value for value in model.model.diffusion_model.parameters() if value.ndim > 1)
    assert first.device == model.load_device
    return model


def close(tensors: dict[str, Tensor], expected: dict[str, Tensor], error: float) -> None:
    """Every tensor is that of the CPU but for rounding, and lies on the CPU."""
    assert set(tensors) == set(expected)
    for key, value in expected.items():
        assert tensors[key].device == models.CPU, key
        assert tensors[key].dtype == value.dtype, key
        assert (tensors[key] - value).norm() <= error * value.norm() + 1e-7, key


# ------------------------------------------------------------------------------------------------- the pretended device


def test_the_table_names_operations_of_pytorch() -> None:
    assert not [name for name in LACKING if not hasattr(torch.ops.aten, name)]


REFUSED: dict[str, Callable[[Tensor, torch.device], Any]] = {
    "float64 of a tensor": lambda value, device: value.double(),
    "float64 from the CPU": lambda value, device: torch.ones(3, dtype=torch.float64).to(device),
    "float64 that is made": lambda value, device: torch.linspace(0, 1, 3, dtype=torch.float64, device=device),
    "float64 that NumPy made": lambda value, device: torch.as_tensor(np.ones(3)).to(device),
    "float64 of a sum": lambda value, device: value.sum(dtype=torch.float64),
    "complex numbers of it": lambda value, device: value.to(torch.complex128),
    "a number of float64": lambda value, device: value * torch.ones(1, dtype=torch.float64),
    "QR": lambda value, device: torch.linalg.qr(value),
    "SVD": lambda value, device: torch.linalg.svd(value),
    "singular values": lambda value, device: torch.linalg.svdvals(value),
    "the spectral norm": lambda value, device: torch.linalg.matrix_norm(value, 2),
    "eigenvalues": lambda value, device: torch.linalg.eigh(value.mT @ value),
    "a pseudo-inverse": lambda value, device: torch.linalg.pinv(value),
    "Cholesky": lambda value, device: torch.linalg.cholesky(value.mT @ value),
    "area": lambda value, device: torch.nn.functional.interpolate(value[None, None], size=(2, 2), mode="area"),
    "two devices": lambda value, device: value + torch.ones(4, 3),
    "NumPy": lambda value, device: value.numpy(),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_device_refuses(device: torch.device, what: str) -> None:
    value = models.random(4, 3, seed=0).to(device)
    assert value.device == device
    assert torch.equal((value + 1).cpu(), models.random(4, 3, seed=0) + 1)
    with pytest.raises((pretended.Refused, RuntimeError, TypeError)) as caught:
        REFUSED[what](value, device)
    assert caught.type is pretended.Refused or what == "NumPy"


# ------------------------------------------------------------------------------------------------------------- training

DEFT = {name: {"method": "deft", "options": {"projector": name}} for name in ("qr", "relu", "ppt", "svd")}
TRAININGS: dict[str, dict[str, Any]] = {
    **{f"deft {name}": chosen for name, chosen in DEFT.items()},
    "para": {"method": "para"},
    "lora": {"method": "lora"},
    "svdiff": {"method": "svdiff", "layers": "everything"},
    "dreambooth": {"method": "dreambooth", "layers": "everything"},
    "convolutions": {"method": "deft", "layers": "all linear and convolution"},
    "checkpointing": {"method": "deft", "gradient_checkpointing": True},
    "offloaded": {"method": "deft", "checkpointing": "offloaded"},
    "weights of the loss": {"method": "para", "weighting": "min-SNR", "loss": "huber", "noise_offset": 0.1},
    "debiased, averaged": {
        "method": "lora",
        "weighting": "debiased",
        "loss": "l1",
        "ema": 0.9,
        "optimizer": "Adafactor",
    },
}
OF_FLOW: dict[str, dict[str, Any]] = {
    "flow": {"method": "deft"},
    "flow, sigma_sqrt": {"method": "para", "weighting": "sigma_sqrt", "timesteps": "mode"},
    "flow, cosmap": {"method": "lora", "weighting": "cosmap", "shift": 3.0},
}


def gradients_of_step(pack: Any, patch: pytest.MonkeyPatch) -> list[Tensor]:
    """The gradients of the step that is taken next, as soon as it is."""
    gradients: list[Tensor] = []
    take_step = pack.trainer.Trainer.take_step

    def watched(trainer: Any) -> Any:
        result = take_step(trainer)
        gradients.extend(parameter.grad.clone() for parameter in trainer.parameters)
        return result

    patch.setattr(pack.trainer.Trainer, "take_step", watched)
    return gradients


@pytest.mark.parametrize("kind", [*TRAININGS, *OF_FLOW])
def test_training(pack: Any, device: torch.device, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole training passes, and the gradients of its step are those of the CPU."""
    make = models.sd3 if kind in OF_FLOW else models.unet
    chosen = settings(pack, **{"steps": 1, "seed": 3} | (TRAININGS | OF_FLOW)[kind])

    def model(where: torch.device) -> Any:
        return as_loaded(lambda: on(where, make))

    with torch.inference_mode():
        latents = models.latents(model(models.CPU), 2)
        latents["noise_mask"] = (models.random(2, 64, 64, seed=8) > 0).float()
        material = pack.material.Material([latents], [models.conditioning()])
        with monkeypatch.context() as patch:
            gradients = gradients_of_step(pack, patch)
            result = pack.loop.train(model(device), material, chosen, lambda progress: None)
    assert all(value.device == models.CPU for value in result.adapter.values())
    expected, loss = one_step(pack, model(models.CPU), latents, models.conditioning(), chosen)
    assert result.losses == [pytest.approx(loss, rel=1e-4)]
    whole = torch.stack([parameter.grad.norm() for parameter in expected.parameters]).norm()
    assert whole > 0
    for one, parameter in zip(gradients, expected.parameters, strict=True):
        assert one.device == device
        assert (one.cpu() - parameter.grad).norm() <= 1e-3 * parameter.grad.norm() + 1e-5 * whole


def test_training_on_top_of_an_adapter_that_lies_on_the_device(pack: Any, device: torch.device) -> None:
    adapter = {key: value.to(device) for key, value in adapter_of(pack, "deft relu", models.unet()).items()}

    def base() -> Any:
        return pack.apply(adapter, on(device, models.unet))[0]

    model = as_loaded(base)
    with torch.inference_mode():
        material = pack.material.Material([models.latents(model, 1)], [models.conditioning()])
        result = pack.loop.train(model, material, settings(pack, steps=1), lambda progress: None)
    assert "trained on top of " in result.report


@pytest.mark.parametrize("what", ["text encoder", "textual inversion"])
def test_training_of_texts(pack: Any, device: torch.device, what: str) -> None:
    token = pack.trainers.run.token

    def losses(where: torch.device) -> list[float]:
        with torch.inference_mode():
            model, clip = on(where, models.unet), small_clip("sd15")
            clip.patcher.load_device = where
        widen(clip, models.random(CLIP_WIDTH, models.TOKEN_WIDTH, seed=3) / CLIP_WIDTH**0.5)
        with torch.inference_mode():
            if what == "text encoder":
                words = ["a photo of a bear", "a hill"]
                captions = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in words]
                material = pack.material.Material([models.latents(model, 2)], captions, clip=clip, words=words)
                chosen = settings(pack, method="lora", steps=2)
            else:
                material = token.material_of(clip, [models.latents(model, 2)], ["a photo of {}"], False, "dog")
                chosen = pack.settings.Settings(
                    method="textual_inversion",
                    rank=1,
                    steps=2,
                    learning_rate=1e-3,
                    precision="fp32",
                    options={"token": "sks-1", "vectors": 2, "words": "dog"},
                )
            return pack.loop.train(model, material, chosen, lambda progress: None).losses

    assert losses(device) == pytest.approx(losses(models.CPU), rel=1e-3)


def widen(clip: Any, project: Tensor) -> None:
    """Bring a text encoder's output to the width that the small models take."""
    own = clip.cond_stage_model.encode_token_weights

    def encode(tokens: Any) -> tuple:
        cond, *_ = own(tokens)
        cond = cond @ project.to(cond.device)
        return cond, cond[:, 0, : models.POOLED_WIDTH]

    clip.cond_stage_model.encode_token_weights = encode


# ------------------------------------------------------------------------------------------------------------- applying

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "deft qr": ("deft", {"projector": "qr"}),
    "deft relu": ("deft", {"projector": "relu"}),
    "para": ("para", {}),
    "lora": ("lora", {}),
    "svdiff": ("svdiff", {}),
    "dora": ("dora", {}),
    "oft": ("oft", {}),
}


def adapter_of(pack: Any, kind: str, model: Any) -> Any:
    """A random adapter of one kind, or one of every kind at once with those that ComfyUI's own loader reads."""
    if kind == "every kind":
        return mixed(pack, model)[0]
    method, options = KINDS[kind]
    return random_layers(pack, layer_shapes(model, method), method, **options)


@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
@pytest.mark.parametrize("kind", [*KINDS, "every kind"])
def test_applying_to_weights(pack: Any, device: torch.device, kind: str, stacking: str) -> None:
    adapter = adapter_of(pack, kind, models.unet())

    def applied(where: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        model = pack.apply(adapter, on(where, models.unet), stacking=stacking)[0]
        model = loaded(pack.apply(adapter, model, strength_model=0.5, stacking=stacking)[0])
        return models.weights(model), models.network_output(model)

    (weights, output), (expected, expected_output) = applied(device), applied(models.CPU)
    close(weights, expected, 1e-6)
    assert models.relative(output, expected_output) < 1e-3
    assert models.relative(output, models.network_output(models.unet())) > 1e-2


@pytest.mark.parametrize("kind", ["deft qr", "deft relu", "para", "lora"])
def test_applying_to_activations(pack: Any, device: torch.device, kind: str) -> None:
    adapter = adapter_of(pack, kind, models.unet())

    def applied(where: torch.device) -> Tensor:
        model = pack.apply(adapter, on(where, models.unet), strength_model=0.5, mode="activations")[0]
        return models.network_output(loaded(model))

    output, expected = applied(device), applied(models.CPU)
    assert models.relative(output, expected) < 1e-4
    assert models.relative(output, models.network_output(models.unet())) > 1e-2


def test_hooks(pack: Any, device: torch.device) -> None:
    adapter_class = pack.patches.hooks.FromBaseHookAdapter
    adapter = adapter_of(pack, "deft qr", models.unet())
    name, group = next(iter(pack.adapters.layers(adapter).items()))
    method = pack.methods.method_of(group)
    entry = pack.patches.weight_adapter.entry(method, method.from_tensors(group))
    base = models.unet().model.get_parameter(f"{name}.weight").detach()
    weight = models.random(*base.shape, seed=3)

    def hooked(where: torch.device) -> Tensor:
        patch, originals = adapter_class(set(), (entry,)), {"key": [(base.to(where), lambda value, inplace: value)]}
        return patch.calculate_weight(
            weight.clone().to(where), "key", 0.5, 1.0, None, lambda value: value, original_weight=originals
        )

    assert torch.allclose(hooked(device).cpu(), hooked(models.CPU), atol=1e-6)


@pytest.mark.parametrize("algorithm", ["DEFT", "PaRa"])
def test_layers_of_comfyuis_own_training(pack: Any, device: torch.device, algorithm: str) -> None:
    cls = pack.patches.core_training.ALGORITHMS[algorithm]
    weight = models.random(24, 20, seed=1)
    P = models.random(24, 4, seed=2)

    def step(where: torch.device) -> tuple[Tensor, Tensor]:
        layer = cls.create_train(weight.to(where), 4)
        with torch.no_grad():
            layer.deft_P.copy_(P)
            if hasattr(layer, "deft_R"):
                layer.deft_R.copy_(models.random(4, 20, seed=3))
        changed = layer(weight.to(where))
        (changed.square().sum() + changed.sum()).backward()
        return changed.detach().cpu(), layer.deft_P.grad.cpu()

    for tensor, expected in zip(step(device), step(models.CPU), strict=True):
        assert torch.allclose(tensor, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------- what is made of models and files


@pytest.mark.parametrize("method", ["deft", "lora"])
def test_extraction(pack: Any, device: torch.device, method: str) -> None:
    extract = pack.convert.extract.extract

    def made(where: torch.device) -> tuple[Any, Any]:
        base, tuned = on(where, models.unet), on(where, lambda: fine_tuned(models.unet))
        return extract(loaded(base), loaded(tuned), method=method, rank=3, vectors=True)

    (extracted, report), (expected, other) = made(device), made(models.CPU)
    close(extracted, expected, 1e-5)
    assert report.energy == pytest.approx(other.energy, rel=1e-6)
    assert "computed on the CPU, because meta has no float64" in report.text()
    assert "computed on the CPU" not in other.text()


def test_extraction_of_weights_on_the_device(pack: Any, device: torch.device) -> None:
    """What is asked to compute there goes to the CPU by itself and comes back."""
    extraction = pack.deft_ops.extraction
    before, after = models.random(24, 20, seed=1), models.random(24, 20, seed=2)
    for method in extraction.EXTRACTED_METHODS:
        extracted = extraction.extract(before.to(device), after.to(device), method, 4)
        expected = extraction.extract(before, after, method, 4)
        assert extracted.kept == expected.kept
        assert extracted.total == expected.total
        assert all(torch.equal(extracted.tensors[key].cpu(), value) for key, value in expected.tensors.items())
        assert extracted.tensors[next(key for key in extracted.tensors if key != "alpha")].device == device
    up, down = models.random(24, 6, seed=3), models.random(6, 20, seed=4)
    cut, expected_cut = extraction.limit_rank(up.to(device), down.to(device), 2), extraction.limit_rank(up, down, 2)
    assert torch.equal(cut[0].cpu(), expected_cut[0])
    assert cut[0].device == device
    assert cut[2:] == expected_cut[2:]


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", [*KINDS, "every kind"])
def test_export(pack: Any, device: torch.device, kind: str, rank: int) -> None:
    export = pack.convert.export.export
    adapter = adapter_of(pack, kind, models.unet())
    if kind == "every kind":  # of which a part is no pair
        adapter = pack.adapters.Adapter({key: value for key, value in adapter.items() if not key.endswith(".diff")})
    exported, report = export(adapter, loaded(on(device, models.unet)), rank=rank)
    expected, other = export(adapter, models.unet(), rank=rank)
    assert report.text() == other.text()
    close(exported, expected, 1e-4)


@pytest.mark.parametrize("kind", [*KINDS, "every kind"])
def test_adapter_info(pack: Any, device: torch.device, kind: str) -> None:
    adapter = adapter_of(pack, kind, models.unet())
    info = pack.inspect(adapter, loaded(on(device, models.unet)))
    expected = pack.inspect(adapter, models.unet())
    assert info.matched == expected.matched == len(expected.changes) > 0
    for (row, change), (_, other) in zip(info.changes, expected.changes, strict=True):
        for name, value in vars(other).items():
            assert getattr(change, name) == (value and pytest.approx(value, rel=1e-4, abs=1e-5)), (row.name, name)


def test_fingerprint(pack: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pack.models.stored, "Tensor", pretended.Pretended)  # it asks for the very type of a weight
        fingerprint = pack.fingerprint.fingerprint(loaded(on(device, models.unet)))
    assert (
        fingerprint == pack.fingerprint.fingerprint(models.unet()) != pack.fingerprint.fingerprint(models.unet(seed=1))
    )


# -------------------------------------------------------------------------------------------------------------- scoring


def pictures(count: int, seed: int) -> list[Image.Image]:
    numbers = np.random.default_rng(seed)
    return [Image.fromarray(numbers.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]


def test_scoring(pack: Any, device: torch.device, tmp_path: Path) -> None:
    """Every metric of the protocol with the most of them, by the demo's scorers and LPIPS with random weights."""
    from torchvision.models import alexnet

    scoring, protocols = pack.scoring.scorer, pack.scoring.protocols
    store = pack.scoring.embeddings.FeatureStore
    state = alexnet(weights=None, num_classes=1).state_dict()
    features = {key: value for key, value in state.items() if key.startswith("features.")}  # a twentieth of the file
    torch.save(features, tmp_path / "alexnet-owt-7be5be79.pth")
    lpips = protocols.get_protocol("dreambooth").backbones["lpips"]
    demo = protocols.get_protocol("demo")
    measures = (*demo.measures, protocols.Measure("DIV", lpips, "within", optional=True))
    protocol = protocols.Protocol("test", "", measures)

    def scores(where: torch.device) -> list[tuple[str, tuple[float, ...]]]:
        scorer = replace(scoring.load_scorer(protocol, [ROOT / "demo" / "models", tmp_path]), store=store())
        for backbone in scorer.backbones.values():
            backbone.module.to(where)
            backbone.place = where
        ours, others, texts = pictures(3, 0), pictures(3, 1), ["a dog"] * 3
        results = [
            scoring.score(scorer, ours, others, texts),
            scoring.score(scorer, ours, task=scoring.DIVERSITY),
            scoring.score(scorer, ours, pictures(2, 2), base=others, task=scoring.DRIFT),
        ]
        return [(row.metric, row.values) for result in results for row in result.rows]

    results, expected = scores(device), scores(models.CPU)
    assert {name for name, _ in results} == {measure.metric for measure in measures}
    assert [name for name, _ in results] == [name for name, _ in expected]
    for (name, values), (_, others) in zip(results, expected, strict=True):
        assert values == pytest.approx(others, abs=1e-5), name


# -------------------------------------------------------------------------------------------------------------- waiting

# A CPU waits for a GPU where it reads a number, where a shape depends on values, and where it copies between the two:
# what torch.cuda.set_sync_debug_mode warns of. Of torch.linalg, what has to read on CUDA whether it has worked.
READING = ("_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "_unique2", "unique_dim")
FACTORING = ("linalg_qr", "_linalg_svd", "_linalg_eigh", "linalg_eig", "_linalg_solve_ex", "linalg_lstsq")
TO_DEVICE, FROM_DEVICE, BY_MASK = "to the device", "from the device", "indexed by a mask"


class Waiting(TorchDispatchMode):
    """Counts, by its kind, what makes a CPU wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, pretended.name_of(func)
        tensors = [leaf for leaf in pretended.leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [pretended.on_device(tensor) for tensor in tensors]
        if any(on_device) and name in READING + FACTORING:
            self.counts[name] += 1
        if any(on_device) and name.startswith("index") and any(tensor.dtype == torch.bool for tensor in tensors[1:]):
            self.counts[BY_MASK] += 1
        result = func(*args, **kwargs)
        if name in ("_to_copy", "copy_") and not kwargs.get("non_blocking"):
            source, target = (
                (on_device[1], on_device[0]) if name == "copy_" else (on_device[0], pretended.on_device(result))
            )
            if source != target:
                self.counts[TO_DEVICE if target else FROM_DEVICE] += 1
        return result


def test_what_waits_is_counted(device: torch.device) -> None:
    value = models.random(3, 4, seed=0).to(device)
    expected = {
        "_local_scalar_dense": lambda: float(value.sum()),
        "nonzero": lambda: value.nonzero(),
        FROM_DEVICE: lambda: value.cpu(),
        TO_DEVICE: lambda: value.copy_(torch.ones(3, 4)),
        BY_MASK: lambda: value[value > 0],
    }
    for kind, work in expected.items():
        with Waiting() as waiting:
            (value @ value.T).relu() + 1
            assert not waiting.counts
            work()
        assert waiting.counts[kind] == 1, kind


# A step reads its loss and the norm of its gradient, and brings the caption, the latents, the noise, its level and the
# two numbers of the target. DEFT and PaRa read at once which of their P need a QR.
OF_A_STEP = Counter({"_local_scalar_dense": 2, TO_DEVICE: 5})
PROJECTED = Counter({FROM_DEVICE: 1})
WAITING: dict[str, tuple[dict[str, Any], Counter[str]]] = {
    "lora": ({"method": "lora"}, OF_A_STEP),
    "lokr": ({"method": "lokr"}, OF_A_STEP),
    "svdiff": ({"method": "svdiff", "layers": "attention"}, OF_A_STEP),
    "para": ({"method": "para"}, OF_A_STEP + PROJECTED),
    "deft, checkpointed, averaged": (
        {"method": "deft", "gradient_checkpointing": True, "ema": 0.9},
        OF_A_STEP + PROJECTED,
    ),
    "accumulation": (
        {"method": "deft", "accumulation": 2},
        OF_A_STEP + OF_A_STEP + PROJECTED + PROJECTED - Counter({"_local_scalar_dense": 1}),
    ),
}


@pytest.mark.parametrize("kind", WAITING)
def test_how_often_a_step_waits(pack: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The device has all of torch.linalg, as CUDA has. The first step may wait more often."""
    monkeypatch.setattr(pack.deft_ops.host, "_TRUSTED", ("cpu", device.type))
    monkeypatch.setattr(pretended.Pretended, "refused", frozenset())
    own, most = WAITING[kind]
    chosen = settings(pack, **{"steps": 2, "seed": 3} | own)
    counts: list[Counter[str]] = []
    with Waiting() as waiting, torch.inference_mode():
        model = loaded(as_loaded(lambda: on(device, models.unet)))
        material = pack.material.Material([models.latents(model, 1)], [models.conditioning()])

        def note(progress: Any) -> None:
            counts.append(waiting.counts.copy())

        pack.loop.train(model, material, chosen, note)
    of_first, of_both = counts
    of_second = of_both - of_first
    assert not of_second - most, f"waits more often: {of_second}"
    assert of_second["_local_scalar_dense"] >= 1, "the loss is not read"
