"""What ComfyUI does for the speed of sampling and gradients do not survive: off in a training, and back after it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_training import one_step, reference_step, settings

FUSED_OF_ONE = ("apply_rope1", "apply_rope_split_half1")
FUSED_OF_TWO = ("apply_rope", "apply_rope_split_half", "rms_rope", "rms_rope_split_half")
MODULATIONS = ("adaln", "rms_adaln")


@pytest.fixture(scope="session")
def without(comfyui_session: Any) -> Callable[..., Any]:
    """The context under test."""
    return comfyui_session.module("trainers.step.inference_only").without_inference_features


def dynamic(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model patcher that says it streams its weights, as all do on a GPU."""
    monkeypatch.setattr(model, "is_dynamic", lambda: True, raising=False)
    return model


def run(model: Any) -> Tensor:
    """One forward pass through ComfyUI's model."""
    x = models.random(1, models.channels(model), 8, 8, seed=1)
    return model.model.apply_model(
        x,
        torch.tensor([0.5]),
        c_crossattn=models.random(1, 4, models.TOKEN_WIDTH, seed=2),
        y=models.random(1, models.POOLED_WIDTH, seed=3),
    )


# ------------------------------------------------------------------------------------------------ options and prefetch


def test_a_model_that_has_nothing_of_it_runs_as_it_is(without: Any, comfyui_session: Any) -> None:
    import comfy.ops
    from comfy.quant_ops import ck

    model = models.sd3()
    functions = {name: getattr(comfy.ops, name) for name in ("cast_bias_weight", "fp8_linear")}
    fused = {name: getattr(ck, name) for name in dir(ck)}
    expected = run(model)
    with pytest.raises(KeyboardInterrupt), without(model) as left_out:
        assert torch.equal(run(model), expected)
        assert left_out == []
        raise KeyboardInterrupt
    assert functions == {name: getattr(comfy.ops, name) for name in functions}
    assert fused == {name: getattr(ck, name) for name in dir(ck)}
    assert not model.model.diffusion_model._forward_pre_hooks


@pytest.mark.parametrize("chosen", [False, True], ids=["default", "already-off"])
def test_graphs_and_the_compiler_are_off(without: Any, monkeypatch: pytest.MonkeyPatch, chosen: bool) -> None:
    from comfy.cli_args import args

    for option in ("disable_cuda_graphs", "disable_comfy_compiler"):
        monkeypatch.setattr(args, option, chosen, raising=False)
    with without(dynamic(models.sd3(), monkeypatch)) as left_out:
        assert args.disable_cuda_graphs
        assert args.disable_comfy_compiler
        assert ("CUDA graphs" in left_out, "ComfyUI's compiler" in left_out) == (not chosen, not chosen)
    assert (args.disable_cuda_graphs, args.disable_comfy_compiler) == (chosen, chosen)


def test_options_that_this_comfyui_lacks_are_not_made(without: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.cli_args import args

    monkeypatch.delattr(args, "disable_cuda_graphs", raising=False)
    with without(dynamic(models.sd3(), monkeypatch)) as left_out:
        assert not hasattr(args, "disable_cuda_graphs")
        assert "CUDA graphs" not in left_out
    assert not hasattr(args, "disable_cuda_graphs")


def test_blocks_are_not_prefetched(without: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI sets the option in each forward pass; some set it since 0.2x, so what it says without us is looked at."""
    model = dynamic(models.sd3(), monkeypatch)
    model.model.current_patcher = model
    network, seen = model.model.diffusion_model, []
    forward = network.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["transformer_options"].get("prefetch_dynamic_vbars"))
        return forward(*args, **kwargs)

    monkeypatch.setattr(network, "forward", spy)
    run(model)
    with without(model) as left_out:
        run(model)
        assert "prefetching of blocks" in left_out
    run(model)
    before, within, after = seen
    assert not within
    assert before == after
    if hasattr(network, "prefetch_dynamic_vbars") or before is not None:
        assert before is True


def test_text_encoders_do_not_prefetch(without: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder(nn.Module):
        prefetch_dynamic_vbars = True  # of the class

        def __init__(self) -> None:
            super().__init__()
            self.graph_dynamic_vbar_blocks = True  # of its own

    model = models.sd3()
    encoder = model.model.encoder = Encoder()
    with without(model):
        assert encoder.prefetch_dynamic_vbars is False
        assert encoder.graph_dynamic_vbar_blocks is False
    assert "prefetch_dynamic_vbars" not in vars(encoder)
    assert encoder.prefetch_dynamic_vbars is True
    assert encoder.graph_dynamic_vbar_blocks is True


# ------------------------------------------------------------------------------------------------- weights in buffers


def reused_buffer() -> Callable[..., Any]:
    """A cast_bias_weight as it is with offloaded weights: views into one buffer, and PyTorch knows nothing of it."""
    import comfy.ops

    memory, own = torch.empty(1 << 14).numpy(), comfy.ops.cast_bias_weight

    def cast(module: Any, input: Any = None, *args: Any, offloadable: bool = False, **kwargs: Any) -> Any:
        if not hasattr(module, "_v"):
            return own(module, input, *args, offloadable=offloadable, **kwargs)
        views, start = [], 0
        for tensor in (module.weight, module.bias):
            if tensor is None:
                views.append(None)
                continue
            place = memory[start : start + tensor.numel()]
            place[:] = tensor.detach().flatten().numpy()
            views.append(torch.from_numpy(place).view(tensor.shape))  # with a version counter of its own
            start += tensor.numel()
        return (*views, None) if offloadable else tuple(views)

    return cast


def stream(root: nn.Module) -> None:
    """Let the norms of a network be as dynamic VRAM has them."""
    import comfy.ops

    for module in root.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and isinstance(module, comfy.ops.CastWeightBiasOp):
            module.comfy_cast_weights, module._v = True, object()  # type: ignore[assignment]


def input_gradient(network: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    network(leaf).square().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_norms_keep_weights_of_their_own(without: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.ops

    plain = nn.Sequential(nn.LayerNorm(16), nn.GroupNorm(4, 16), nn.LayerNorm(16))
    ours = nn.Sequential(
        *(
            getattr(comfy.ops.manual_cast, type(norm).__name__)(*shape)
            for norm, shape in zip(plain, [(16,), (4, 16), (16,)])
        )
    )
    state = models.filled({name: value.shape for name, value in plain.state_dict().items()}, seed=4)
    plain.load_state_dict(state)
    ours.load_state_dict(state)
    for parameter in ours.parameters():
        parameter.requires_grad_(False)
    stream(ours)
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", reused_buffer())
    x = models.random(5, 16, seed=5)
    expected = input_gradient(plain, x)
    wrong = input_gradient(ours, x)
    assert not torch.allclose(wrong, expected, rtol=0.1)  # what would happen, without a word
    with without(models.sd3()) as left_out:
        assert left_out == []
        given = input_gradient(ours, x)
        assert left_out == ["weights in buffers that are used again"]
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_a_training_with_streamed_norms_has_the_right_gradients(
    pack: Pack, without: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """DreamBooth has those of the norms' own weights as well, which then come from the trainer."""
    import comfy.ops

    layers = "everything" if method == "dreambooth" else "all linear"
    chosen = settings(pack, method, layers=layers, max_grad_norm=0.0)
    latents, captions = models.latents(models.unet(), 2), models.conditioning()
    leaves, loss = reference_step(pack, models.unet(), latents, captions, chosen)
    model = models.unet()
    stream(model.model.diffusion_model)
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", reused_buffer())
    with without(model) as left_out:
        trainer, given = one_step(pack, model, latents, captions, chosen)
    assert left_out == ["weights in buffers that are used again"]
    assert given == pytest.approx(float(loss), rel=1e-5)
    for name, layer in trainer.layers.items():
        for key, parameter in layer.params.items():
            torch.testing.assert_close(parameter.grad, leaves[name][key].grad, rtol=1e-3, atol=1e-6)


def test_norms_that_are_put_away_again_for_a_preview(pack: Pack, without: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DreamBooth training has given the norms weights of their own when the preview begins."""
    import comfy.ops

    chosen = settings(pack, "dreambooth", layers="everything", max_grad_norm=0.0)
    model = models.unet()
    network = model.model.diffusion_model
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", reused_buffer())
    with torch.inference_mode(False), torch.enable_grad(), without(model):
        material = pack.material.Material([models.latents(model, 2)], [models.conditioning()])
        trainer = pack.trainer.Trainer(model, chosen, pack.material.Dataset(model.model, material, chosen))
        with trainer.prepared():
            random = trainer.random_state()
            trainer.gradients()
            before = [parameter.grad.clone() for parameter in trainer.parameters]
            stream(network)
            trainer.set_random_state(random)
            trainer.gradients()
    for parameter, gradient in zip(trainer.parameters, before, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert all(hasattr(module, "_v") for module in network.modules() if isinstance(module, nn.GroupNorm))


def test_tables_of_embeddings_are_not_copied(without: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.ops

    table = comfy.ops.manual_cast.Embedding(10, 4)
    table.weight.requires_grad_(False)
    table._v = object()  # type: ignore[assignment]
    weight = models.random(10, 4, seed=6)
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", lambda *args, **kwargs: (weight, None, None))
    with without(models.sd3()) as left_out:
        assert comfy.ops.cast_bias_weight(table, device=models.CPU, offloadable=True)[0] is weight
        assert left_out == []


# ---------------------------------------------------------------------------------------------------------- kernels


def rotations() -> Tensor:
    """cos, -sin, sin, cos for [1, 3, 2, 8]: tokens, heads, channels."""
    angle = models.random(1, 3, 1, 4, seed=7).double()
    return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).view(1, 3, 1, 4, 2, 2)


def fused(name: str) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """One of comfy_kitchen's operations as a function of its activations, and those."""
    from comfy.quant_ops import ck

    q, k = (models.random(1, 3, 2, 8, seed=seed).double() for seed in (8, 9))
    scale, shift = (models.random(1, 1, 8, seed=seed).double() for seed in (10, 11))
    if name in FUSED_OF_ONE:
        return lambda q: getattr(ck, name)(q, rotations().to(q)), (q,)
    if name in MODULATIONS:
        return lambda x, scale, shift: getattr(ck, name)(x, scale, shift), (q[:, :, 0], scale, shift)
    scales = (scale.flatten(), shift.flatten()) if name.startswith("rms") else ()
    return lambda q, k, *scales: getattr(ck, name)(q, k, rotations().to(q), *scales), (q, k, *scales)


@pytest.mark.parametrize("name", [*FUSED_OF_ONE, *FUSED_OF_TWO, *MODULATIONS])
def test_fused_kernels_have_the_gradient_of_their_values(without: Any, name: str, comfyui_session: Any) -> None:
    from comfy.quant_ops import ck

    if not hasattr(ck, name):
        pytest.skip(f"this comfy_kitchen has no {name}")
    function, inputs = fused(name)
    expected = function(*(value.float() for value in inputs))
    with without(models.sd3()) as left_out:
        torch.testing.assert_close(function(*(value.float() for value in inputs)), expected)
        assert left_out == []  # nothing wanted a gradient
        torch.testing.assert_close(function(*(value.float().requires_grad_() for value in inputs)), expected)
        assert torch.autograd.gradcheck(function, [value.requires_grad_() for value in inputs])  # finite differences
        assert left_out == ["fused kernels without a gradient"]


def test_cosmos_attention_is_trained(without: Any, comfyui_session: Any) -> None:
    """Norms and rotations of Cosmos are fused, also when it is trained."""
    import comfy.ops
    from comfy.ldm.cosmos.predict2 import Attention

    with torch.no_grad():
        layer = Attention(16, None, n_heads=2, head_dim=8, operations=comfy.ops.manual_cast, dtype=torch.float64)
        state = models.filled({name: value.shape for name, value in layer.state_dict().items()}, seed=12)
        layer.load_state_dict(state)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    x = models.random(1, 3, 16, seed=13).double().requires_grad_()
    with without(models.sd3()):
        rotated = rotations().view(3, 4, 2, 2).unsqueeze(1).unsqueeze(0)
        assert torch.autograd.gradcheck(lambda x: layer(x, rope_emb=rotated), (x,))


def test_fast_fp8_layers_leave_their_input_alone(without: Any, comfyui_session: Any) -> None:
    import comfy.ops

    layer = comfy.ops.fp8_ops.Linear(16, 16, bias=False)
    weight = models.random(16, 16, seed=14).to(torch.float8_e4m3fn)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.scale_weight = layer.scale_input = None
    x = 1000 * models.random(4, 16, seed=15)
    clamped = x.clone()
    expected = layer(clamped)
    assert not torch.equal(clamped, x)
    given = x.clone()
    with without(models.sd3()) as left_out:
        torch.testing.assert_close(layer(given), expected)
        assert "fp8 layers that change their input" in left_out
    assert torch.equal(given, x)


# --------------------------------------------------------------------------------------------------------- compiled


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.linear(x))


@pytest.mark.parametrize("how", ["a block in a wrapper", "a block itself"])
def test_compiled_blocks_run_as_they_were_written(without: Any, how: str) -> None:
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    root = nn.Module()
    root.diffusion_model = nn.Sequential(Block(), Block())
    blocks, names = root.diffusion_model, [name for name, _ in root.named_modules()]
    x = models.random(2, 8, seed=16)
    expected = root.diffusion_model(x)
    if how == "a block in a wrapper":
        blocks[1] = torch.compile(blocks[1], backend=backend)
    else:
        blocks[1].compile(backend=backend)
    compiled = blocks[1]
    with without(SimpleNamespace(model=root)) as left_out:
        assert [name for name, _ in root.named_modules()] == names
        torch.testing.assert_close(root.diffusion_model(x), expected)
        assert left_out == ["torch.compile"]
        assert not compilations
    assert blocks[1] is compiled
    torch.testing.assert_close(root.diffusion_model(x), expected)
    assert len(compilations) == 1
