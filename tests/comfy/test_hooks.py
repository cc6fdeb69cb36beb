"""Adapters as ComfyUI hooks, by its own nodes and by Create Hook Adapter: where they act, when, and what they leave.

A run with a hook is compared with runs in which the adapter is applied in the ordinary way.
"""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .pack import Pack

PROJECTION = "diffusion_model.joint_blocks.0.x_block.attn.proj"
QKV = "diffusion_model.joint_blocks.0.x_block.attn.qkv"
KINDS = ["sd3", "unet"]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "qr": ("deft", {"projector": "qr"}),
    "relu": ("deft", {"projector": "relu"}),
    "para": ("para", {}),
    "lora": ("lora", {}),
}
STEPS = 4


def core(node: str, **inputs: Any) -> Any:
    """The first output of one of ComfyUI's own nodes."""
    import nodes

    cls = nodes.NODE_CLASS_MAPPINGS[node]
    return getattr(cls(), cls.FUNCTION)(**inputs)[0]


def random_adapter(pack: Pack, label: str, model: Any, names: list[str] | None = None, seed: int = 10) -> Any:
    """A random adapter of all layers of a model, or of the named ones."""
    method, options = METHODS[label]
    return pack.adapter(model, names or models.every_layer(model), method, seed=seed, **options)


def save(pack: Pack, adapter: Any, name: str) -> str:
    """Write a native file to models/loras, and return its name there."""
    path = pack.loras / f"hook_{name}.safetensors"
    pack.native.write(adapter, path, pack.native.native_metadata(adapter, name=name, version="test"))
    return path.name


def hook_of(pack: Pack, adapter: Any, model: Any, **options: Any) -> Any:
    """Create Hook Adapter."""
    inputs = {"strength_model": 1.0, "strength_clip": 1.0, "removal": 1.0, "injection": 1.0, "stacking": "from_base"}
    return pack.nodes.hooks.DEFTCreateHookAdapter.execute(adapter, model, **(inputs | options)).result[0]


def with_keyframes(hooks: Any, *points: tuple[float, float]) -> Any:
    """Hooks with a schedule of (strength, start percent)."""
    frames = None
    for strength, start in points:
        frames = core("CreateHookKeyframe", strength_mult=strength, start_percent=start, prev_hook_kf=frames)
    return core("SetHookKeyframes", hooks=hooks, hook_kf=frames)


def on_conditioning(conditioning: list, hooks: Any) -> list:
    """Cond Set Props."""
    return core("ConditioningSetProperties", cond_NEW=conditioning, strength=1.0, set_cond_area="default", hooks=hooks)


def fresh(kind: str = "sd3", **options: Any) -> Any:
    """A small model that remembers its weights."""
    model = models.sd3(**options) if kind == "sd3" else models.unet(**options)
    model.model.untouched = models.weights(model)
    return model


def is_untouched(model: Any) -> bool:
    """Whether all weights are what they were when the model was made, bit for bit."""
    now = models.weights(model)
    return all(torch.equal(now[key], value) for key, value in model.model.untouched.items())


def patched_weights(model: Any) -> dict[str, Tensor]:
    """Copies of the weights under the model's patches."""
    unload()
    return models.patched_weights(model)


def unload() -> None:
    """Take all patches of all models off."""
    import comfy.model_management

    comfy.model_management.unload_all_models()


POSITIVE, NEGATIVE = models.conditioning(20), models.conditioning(30)


def sample(
    model: Any,
    positive: list = POSITIVE,
    negative: list = NEGATIVE,
    *,
    cfg: float = 3.0,
    steps: int = STEPS,
) -> Tensor:
    """A latent of KSampler; a model without patches has its own weights again after it, bit for bit."""
    import nodes

    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, models.channels(model), 8, 8)}
        result = nodes.KSampler().sample(model, 5, steps, cfg, "euler", "simple", positive, negative, latent)[0]
    assert model.patches or is_untouched(model)
    assert not model.hook_backup
    assert not model.cached_hook_patches
    assert model.current_hooks is None
    return result["samples"].clone()


def staged(first: Any, second: Any, step: int, positive: list = POSITIVE, negative: list = NEGATIVE) -> Tensor:
    """A latent of two KSamplerAdvanced: steps before `step` with one model, the others with another."""
    import nodes

    latent = {"samples": torch.zeros(1, models.channels(first), 8, 8)}
    sampler = nodes.KSamplerAdvanced()
    with torch.inference_mode():
        latent = sampler.sample(
            first, "enable", 5, STEPS, 3.0, "euler", "simple", positive, negative, latent, 0, step, "enable"
        )[0]
        latent = sampler.sample(
            second, "disable", 5, STEPS, 3.0, "euler", "simple", positive, negative, latent, step, 1000, "disable"
        )[0]
    return latent["samples"].clone()


def step_of(model: Any, percent: float) -> int:
    """The first step of the run at or after a point of a hook's schedule."""
    import comfy.samplers

    sampling = model.model.model_sampling
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    step = next(index for index, sigma in enumerate(sigmas) if float(sigma) <= sampling.percent_to_sigma(percent))
    assert 0 < step < STEPS
    return step


# ------------------------------------------------------------------------------------- ComfyUI's own Create Hook LoRA


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", ["qr", "para"])
def test_a_native_file_in_core_create_hook_lora(pack: Pack, kind: str, label: str) -> None:
    model = fresh(kind)
    adapter = random_adapter(pack, label, model)
    hooks = core(
        "CreateHookLora", lora_name=save(pack, adapter, f"{kind}_{label}"), strength_model=0.8, strength_clip=1.0
    )
    positive, negative = on_conditioning(POSITIVE, hooks), on_conditioning(NEGATIVE, hooks)
    base = sample(model)
    applied = sample(pack.apply(adapter, model, strength_model=0.8)[0])
    assert models.relative(applied, base) > 1e-2
    assert torch.equal(sample(model, positive, negative), applied)
    assert torch.equal(sample(model, positive, negative), applied)  # a second run of the same hooks
    assert torch.equal(sample(model), base)

    off = with_keyframes(hooks, (0.0, 0.0))
    assert torch.equal(sample(model, on_conditioning(POSITIVE, off), on_conditioning(NEGATIVE, off)), base)


@pytest.mark.parametrize("maker", ["core", "ours"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_is_sampling_in_stages(pack: Pack, kind: str, maker: str) -> None:
    model = fresh(kind)
    adapter = random_adapter(pack, "qr", model)
    if maker == "core":
        hooks = core("CreateHookLoraModelOnly", lora_name=save(pack, adapter, f"schedule_{kind}"), strength_model=0.8)
    else:
        hooks = hook_of(pack, adapter, model, strength_model=0.8)
    for first, second in ((1.0, 0.25), (0.0, 1.0), (1.0, -0.5)):
        scheduled = with_keyframes(hooks, (first, 0.0), (second, 0.4))
        sampled = sample(model, on_conditioning(POSITIVE, scheduled), on_conditioning(NEGATIVE, scheduled))
        stages = [pack.apply(adapter, model, strength_model=0.8 * part)[0] for part in (first, second)]
        assert models.relative(sampled, staged(*stages, step_of(model, 0.4))) < 1e-5
        assert all(models.relative(sampled, sample(stage)) > 1e-3 for stage in stages)


@pytest.mark.parametrize("maker", ["core", "ours"])
def test_a_hook_acts_on_its_conditioning_only(pack: Pack, maker: str) -> None:
    """The latent after one step of Euler is the prediction, and guidance mixes two of them that can be had alone."""
    model = fresh()
    adapter = random_adapter(pack, "relu", model)
    hooks = (
        hook_of(pack, adapter, model)
        if maker == "ours"
        else core("CreateHookLora", lora_name=save(pack, adapter, "one_side"), strength_model=1.0, strength_clip=1.0)
    )
    patched = pack.apply(adapter, model)[0]
    ways = {
        (which, caption): sample(which_model, which_caption, which_caption, cfg=1.0, steps=1)
        for which, which_model in (("base", model), ("patched", patched))
        for caption, which_caption in (("positive", POSITIVE), ("negative", NEGATIVE))
    }
    for hooked in ({"positive"}, {"negative"}, set(), {"positive", "negative"}):
        sampled = sample(
            model,
            on_conditioning(POSITIVE, hooks) if "positive" in hooked else POSITIVE,
            on_conditioning(NEGATIVE, hooks) if "negative" in hooked else NEGATIVE,
            steps=1,
        )
        one, other = (ways["patched" if side in hooked else "base", side] for side in ("positive", "negative"))
        assert models.relative(sampled, other + 3.0 * (one - other)) < 1e-5
    assert models.relative(ways["patched", "positive"], ways["base", "positive"]) > 1e-2


def test_two_hooks_on_two_conditionings(pack: Pack) -> None:
    """Core keeps the weights of both groups and swaps them at every step."""
    model = fresh()
    one, two = (random_adapter(pack, label, model, seed=seed) for label, seed in (("qr", 10), ("para", 50)))
    sampled = sample(
        model,
        on_conditioning(POSITIVE, hook_of(pack, one, model)),
        on_conditioning(NEGATIVE, hook_of(pack, two, model)),
        steps=1,
    )
    first, second = (
        sample(pack.apply(adapter, model)[0], caption, caption, cfg=1.0, steps=1)
        for adapter, caption in ((one, POSITIVE), (two, NEGATIVE))
    )
    assert models.relative(sampled, second + 3.0 * (first - second)) < 1e-5
    again = [
        sample(
            model,
            on_conditioning(POSITIVE, hook_of(pack, one, model)),
            on_conditioning(NEGATIVE, hook_of(pack, two, model)),
        )
        for _ in range(2)
    ]
    assert torch.equal(*again)


# --------------------------------------------------------------------------------------------- Create Hook Adapter


def effective(model: Any, hooks: Any) -> dict[str, Tensor]:
    """The weights of a loaded model under hooks; it is as before afterwards."""
    import comfy.hooks

    if not model.patches:
        unload()
    with torch.inference_mode():
        model.register_all_hook_patches(hooks, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model), {})
        model.patch_hooks(hooks)
        try:
            return models.weights(model)
        finally:
            model.patch_hooks(None)
            model.clean_hooks()
            model.restore_hook_patches()


@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
@pytest.mark.parametrize("label", list(METHODS))
def test_every_strength_in_a_hook(pack: Pack, label: str, stacking: str) -> None:
    model = fresh()
    adapter = random_adapter(pack, label, model)
    for strength, removal, injection in (
        (1.0, 1.0, 1.0),
        (-1.5, 1.0, 1.0),
        (2.5, 0.5, 1.0),
        (0.7, 1.0, -2.0),
        (1.0, 0.0, 1.0),
        (1.0, 1.0, 0.0),
    ):
        parts = {"removal": removal, "injection": injection}
        applied = patched_weights(pack.apply(adapter, model, strength_model=strength, **parts)[0])
        hooked = effective(model, hook_of(pack, adapter, model, strength_model=strength, stacking=stacking, **parts))
        for key in applied:
            assert models.relative(hooked[key], applied[key]) < 1e-6, key
        assert is_untouched(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
def test_hooks_on_half_precision_and_fp8(pack: Pack, dtype: torch.dtype, stacking: str) -> None:
    """A hook is rounded like a patch, by ComfyUI and once; at strength 0 nothing changes."""
    model = fresh(dtype=dtype)
    adapter = random_adapter(pack, "qr", model)
    base = sample(model)
    off = with_keyframes(hook_of(pack, adapter, model, stacking=stacking), (0.0, 0.0))
    assert torch.equal(sample(model, on_conditioning(POSITIVE, off), on_conditioning(NEGATIVE, off)), base)
    hooked = effective(model, hook_of(pack, adapter, model, stacking=stacking))
    applied = patched_weights(pack.apply(adapter, model)[0])
    step = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float8_e4m3fn: 2**-3}[dtype]
    for key, value in hooked.items():
        assert value.dtype == applied[key].dtype
        distance = (value.float() - applied[key].float()).abs()
        assert torch.all(distance <= step * applied[key].float().abs() + 2**-9)
        assert (distance > 0).float().mean() < 1e-2  # the same rounding but where float32 sums end differently


def test_the_node(pack: Pack) -> None:
    model = fresh()
    adapter = random_adapter(pack, "qr", model)
    adapter |= pack.adapters.from_layers(
        models.deft_layers({"somewhere.else": (64, 64)}, pack.methods.get("deft"), projector="qr")
    )
    inputs: dict[str, Any] = {
        "strength_model": 1.0,
        "strength_clip": 1.0,
        "removal": 1.0,
        "injection": 1.0,
        "stacking": "from_base",
    }
    first, report = pack.nodes.hooks.DEFTCreateHookAdapter.execute(adapter, model, **inputs).result
    assert f"{len(models.every_layer(model))} layers" in report
    assert "somewhere.else" in report
    both, _ = pack.nodes.hooks.DEFTCreateHookAdapter.execute(
        random_adapter(pack, "para", model), model, prev_hooks=first, **inputs
    ).result
    assert len(first) == 1
    assert len(both) == 2
    assert both.contains(first.hooks[0])
    none, _ = pack.nodes.hooks.DEFTCreateHookAdapter.execute(
        adapter, model, **(inputs | {"strength_model": 0.0, "strength_clip": 0.0})
    ).result
    assert len(none) == 0
    assert not model.patches
    assert not model.hook_patches
    with pytest.raises(ValueError, match="No layer of the adapter fits"):
        pack.nodes.hooks.DEFTCreateHookAdapter.execute(adapter, fresh("unet"), **inputs)
    with pytest.raises(ValueError, match="Unknown stacking 'both'"):
        pack.nodes.hooks.DEFTCreateHookAdapter.execute(adapter, model, **(inputs | {"stacking": "both"}))


def test_names_that_core_does_not_read(pack: Pack) -> None:
    """A file of PEFT's names: core's Create Hook LoRA drops all of it in silence, ours matches it."""
    model = fresh("unet")
    native = random_adapter(pack, "qr", model, ["diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"])
    name = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    adapter = pack.adapters.Adapter({f"{name}.{key.rpartition('.')[2]}": value for key, value in native.items()})
    base, applied = sample(model), sample(pack.apply(native, model)[0])
    assert models.relative(applied, base) > 1e-4
    for hooks, latent in (
        (
            core("CreateHookLora", lora_name=save(pack, adapter, "peft_names"), strength_model=1.0, strength_clip=1.0),
            base,
        ),
        (hook_of(pack, adapter, model), applied),
    ):
        sampled = sample(model, on_conditioning(POSITIVE, hooks), on_conditioning(NEGATIVE, hooks))
        assert models.relative(sampled, latent) < 1e-5


def test_slices_and_rows_of_another_order(pack: Pack) -> None:
    model = fresh()
    shapes = {
        "transformer_blocks.0.attn.to_q": (64, 64),
        "transformer_blocks.0.attn.to_v": (64, 64),
        "norm_out.linear": (128, 64),
    }
    adapter = pack.adapters.from_layers(models.deft_layers(shapes, pack.methods.get("deft"), projector="relu"))
    applied = patched_weights(pack.apply(adapter, model)[0])
    for stacking in ("sequential", "from_base"):
        hooked = effective(model, hook_of(pack, adapter, model, stacking=stacking))
        assert all(models.relative(hooked[key], applied[key]) < 1e-6 for key in applied)
    assert models.relative(applied[f"{QKV}.weight"], models.weights(model)[f"{QKV}.weight"]) > 1e-2


def test_a_model_that_the_hook_was_not_made_for(pack: Pack) -> None:
    small, large, other = fresh(), fresh(depth=2), fresh("unet")
    hooks = hook_of(pack, random_adapter(pack, "qr", small), small)
    for model, words in ((large, "should be"), (other, "does not exist")):
        with pytest.raises(ValueError, match=words) as caught:
            sample(model, on_conditioning(POSITIVE, hooks))
        assert "Create Hook Adapter" in str(caught.value)
        sample(model)


# ----------------------------------------------------------------- several hooks, and removal apart from injection


def formula(adapter: Any, name: str, base: Tensor, removal: float, injection: float) -> Tensor:
    """Q (t_i s R - t_r right^T W) in float64."""
    Q, R = adapter[f"{name}.deft_Q"].double(), adapter[f"{name}.deft_R"].double()
    right = adapter.get(f"{name}.deft_right", Q).double()
    return Q @ (injection * float(adapter[f"{name}.alpha"]) / len(R) * R - removal * right.T @ base.double())


@pytest.mark.parametrize("order", ["removal first", "injection first"])
@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
def test_removal_and_injection_as_two_hooks(pack: Pack, stacking: str, order: str) -> None:
    """Both from the base add up to both at once; in sequence a later removal takes the injection away again."""
    model = fresh()
    base = models.weights(model)[f"{PROJECTION}.weight"].double()
    adapter = random_adapter(pack, "qr", model, [PROJECTION])
    removing = hook_of(pack, adapter, model, injection=0.0, stacking=stacking)
    injecting = hook_of(pack, adapter, model, removal=0.0, stacking=stacking)
    pair = (removing, injecting) if order == "removal first" else (injecting, removing)
    hooked = effective(model, core("CombineHooks2", hooks_A=pair[0], hooks_B=pair[1]))[f"{PROJECTION}.weight"]
    both = base + formula(adapter, PROJECTION, base, 1, 1)
    removed = base + formula(adapter, PROJECTION, base, 1, 0)
    assert models.relative(both, removed) > 1e-2
    # With orthonormal Q, Q Q^T (Q s R) = Q s R: nothing is left of what was injected.
    expected = removed if (stacking, order) == ("sequential", "injection first") else both
    assert models.relative(hooked, expected) < 1e-6


def test_removal_and_injection_on_schedules_of_their_own(pack: Pack) -> None:
    model = fresh()
    adapter = random_adapter(pack, "qr", model)
    removing = with_keyframes(hook_of(pack, adapter, model, injection=0.0), (1.0, 0.0), (0.25, 0.4))
    injecting = with_keyframes(hook_of(pack, adapter, model, removal=0.0), (0.5, 0.0), (2.0, 0.4))
    stages = [
        pack.apply(adapter, model, removal=removal, injection=injection)[0]
        for removal, injection in ((1.0, 0.5), (0.25, 2.0))
    ]
    expected = staged(*stages, step_of(model, 0.4))
    for pair in ((removing, injecting), (injecting, removing)):
        hooks = core("CombineHooks2", hooks_A=pair[0], hooks_B=pair[1])
        sampled = sample(model, on_conditioning(POSITIVE, hooks), on_conditioning(NEGATIVE, hooks))
        assert models.relative(sampled, expected) < 1e-5
    assert all(models.relative(expected, sample(stage)) > 1e-3 for stage in stages)


@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
def test_several_adapters_as_hooks_over_a_patched_model(pack: Pack, stacking: str) -> None:
    """Over a model with an adapter and a LoRA: the same as applying all of them in that order and way."""
    model = fresh()
    key = f"{PROJECTION}.weight"
    lora, one, two, three = (
        random_adapter(pack, label, model, seed=seed)
        for label, seed in (("lora", 5), ("qr", 10), ("relu", 30), ("para", 50))
    )
    patched = pack.apply(one, pack.apply(lora, model)[0], strength_model=0.5, stacking=stacking)[0]
    stacked = patched
    hooks = None
    for adapter, strength in ((two, 0.7), (three, -0.4)):
        stacked = pack.apply(adapter, stacked, strength_model=strength, stacking=stacking)[0]
        hooks = hook_of(pack, adapter, model, strength_model=strength, stacking=stacking, prev_hooks=hooks)
    weights = patched_weights(stacked)
    with torch.inference_mode():
        patched.patch_model(models.DEVICE)
        hooked = effective(patched, hooks)
        before = models.weights(patched)
        patched.unpatch_model(models.CPU)
    assert models.relative(hooked[key], weights[key]) < 1e-6
    assert models.relative(before[key], hooked[key]) > 1e-2
    latent = sample(patched, on_conditioning(POSITIVE, hooks), on_conditioning(NEGATIVE, hooks))
    assert models.relative(latent, sample(stacked)) < 1e-5
    unload()
    assert is_untouched(model)


def test_the_two_ways_differ(pack: Pack) -> None:
    model = fresh()
    key = f"{PROJECTION}.weight"
    weights = {}
    for stacking in ("sequential", "from_base"):
        hooks = None
        for label, seed in (("qr", 10), ("relu", 30)):
            hooks = hook_of(
                pack, random_adapter(pack, label, model, [PROJECTION], seed), model, stacking=stacking, prev_hooks=hooks
            )
        weights[stacking] = effective(model, hooks)[key]
    assert models.relative(weights["sequential"], weights["from_base"]) > 1e-3


# ------------------------------------------------------------------------------------------------------- low VRAM


@pytest.mark.parametrize("stacking", ["sequential", "from_base"])
def test_hooks_on_a_model_that_does_not_fit(pack: Pack, stacking: str) -> None:
    """Layers that are patched while they are cast: a hook changes the stored weight, the model's patches come after."""
    model = fresh()
    own, hook = random_adapter(pack, "para", model, seed=50), random_adapter(pack, "qr", model)
    inputs = models.network_inputs(model)

    def low_vram_output(patched: Any, hooks: Any) -> Tensor:
        import comfy.hooks

        unload()
        with torch.inference_mode():
            patched.patch_model(models.DEVICE, lowvram_model_memory=1)
            if patched.patches:
                assert any(getattr(module, "weight_function", None) for module in model.model.modules())
            target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
            patched.register_all_hook_patches(hooks, target, {})
            patched.patch_hooks(hooks)
            output = models.forward(model, **inputs)
            patched.clean_hooks()
            patched.restore_hook_patches()
            patched.detach()
        return output

    hooks = hook_of(pack, hook, model, stacking=stacking)
    hooked = models.network_output(pack.apply(hook, model)[0], **inputs)
    assert models.relative(low_vram_output(model.clone(), hooks), hooked) < 1e-5
    lora = pack.apply(random_adapter(pack, "lora", model, seed=70), model)[0]  # its change is the same on any weight
    from_base = models.network_output(pack.apply(hook, lora, stacking="from_base")[0], **inputs)
    assert models.relative(low_vram_output(lora, hooks), from_base) < 1e-5
    hook_first = models.network_output(pack.apply(own, pack.apply(hook, model)[0])[0], **inputs)
    own_first = models.network_output(pack.apply(hook, pack.apply(own, model)[0], stacking=stacking)[0], **inputs)
    low_vram = low_vram_output(pack.apply(own, model)[0], hooks)
    assert models.relative(low_vram, hook_first) < 1e-5 < models.relative(low_vram, own_first)
    assert is_untouched(model)


# ------------------------------------------------------------------------------------------------------------ CLIP


@pytest.fixture(scope="module")
def demo(pack: Pack, comfyui_session: Any) -> Any:
    """The demo's denoiser and text encoder, and an adapter of the linear layers of both."""
    model = core("UNETLoader", unet_name="deft_demo_denoiser.safetensors", weight_dtype="default")
    model.model.untouched = models.weights(model)
    clip = comfyui_session.pack_nodes["DEFTDemoTextEncoder"].execute().result[0]
    names = comfyui_session.module("models.names").clip_names(clip)
    keys = {name for name, module in clip.cond_stage_model.named_modules() if isinstance(module, nn.Linear)}
    layers = [
        name
        for name, target in names.items()
        if name.startswith("text_encoders.") and isinstance(target, str) and target.removesuffix(".weight") in keys
    ]
    state = clip.patcher.model.state_dict()
    shapes = {name: tuple(state[names[name]].shape) for name in layers}
    text = pack.adapters.from_layers(models.deft_layers(shapes, pack.methods.get("deft"), projector="qr", seed=90))
    adapter = pack.adapters.Adapter(random_adapter(pack, "qr", model) | text)
    assert len(shapes) > 3
    return types.SimpleNamespace(model=model, clip=clip, adapter=adapter)


def encode(clip: Any) -> list:
    """CLIP Text Encode."""
    import nodes

    with torch.inference_mode():
        return nodes.CLIPTextEncode().encode(clip, "a sks teddy bear on a red background")[0]


@pytest.mark.parametrize("maker", ["core", "ours"])
def test_hooks_on_the_text_encoder(pack: Pack, demo: Any, maker: str) -> None:
    """Set CLIP Hooks hands the hooks on to the conditioning: one node for both models."""
    if maker == "core":
        hooks = core(
            "CreateHookLora", lora_name=save(pack, demo.adapter, "both"), strength_model=0.5, strength_clip=0.8
        )
    else:
        hooks = hook_of(pack, demo.adapter, demo.model, clip=demo.clip, strength_model=0.5, strength_clip=0.8)
    before = {key: value.clone() for key, value in demo.clip.patcher.model.state_dict().items()}
    plain = encode(demo.clip)
    patched, patched_clip, _ = pack.apply(demo.adapter, demo.model, demo.clip, strength_model=0.5, strength_clip=0.8)
    expected = encode(patched_clip)
    hooked_clip = core("SetClipHooks", clip=demo.clip, apply_to_conds=True, schedule_clip=False, hooks=hooks)
    hooked = encode(hooked_clip)
    assert models.relative(expected[0][0], plain[0][0]) > 1e-2
    assert models.relative(hooked[0][0], expected[0][0]) < (1e-6 if maker == "core" else 1e-5)
    assert models.relative(sample(demo.model, hooked, hooked), sample(patched, expected, expected)) < 1e-5
    assert torch.equal(encode(demo.clip)[0][0], plain[0][0])

    scheduled = with_keyframes(hooks, (1.0, 0.0), (0.0, 0.5))
    hooked_clip = core("SetClipHooks", clip=demo.clip, apply_to_conds=True, schedule_clip=True, hooks=scheduled)
    early, late = encode(hooked_clip)
    assert (early[1]["clip_start_percent"], late[1]["clip_start_percent"]) == (0.0, 0.5)
    assert models.relative(early[0], expected[0][0]) < 1e-5
    assert torch.equal(late[0], plain[0][0])
    unload()
    now = demo.clip.patcher.model.state_dict()
    assert all(torch.equal(now[key], before[key]) for key in before)


def test_a_hook_made_without_the_clip_leaves_it_alone(pack: Pack, demo: Any) -> None:
    hooks, report = pack.patches.hooks.create_hook(demo.adapter, demo.model)
    assert report.unmatched
    assert all(name.startswith("text_encoders.") for name in report.unmatched)
    clip = core("SetClipHooks", clip=demo.clip, apply_to_conds=False, schedule_clip=False, hooks=hooks)
    assert torch.equal(encode(clip)[0][0], encode(demo.clip)[0][0])
