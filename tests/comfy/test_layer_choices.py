"""What each choice of `layers` takes on every base: hand-written lists, the reference trainers' own lists, and rules
that hold everywhere.
"""

from __future__ import annotations

import itertools
import logging
import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from .bases import image_transformers, sd_flux, video
from .bases.base import Base
from .conftest import ROOT

BASES: list[Base] = [*sd_flux.BASES, *image_transformers.BASES, *video.BASES]
ATTENTION, WITHOUT_CROSS, PAPER, FEED_FORWARD = CHOICES = (
    "attention",
    "attention without cross-attention",
    "paper (to_q, to_k, to_v, to_out.0)",
    "attention and feed-forward",
)
OTHERS = ("all linear", "all linear and convolution", "everything")
# Refiners, adapters and encoders of something else than the caption, which the reference trainers leave out, by the
# word in their paths. musubi-tuner: double and single blocks of HunyuanVideo and HunyuanImage, Z-Image without
# "_refiner", Wan's blocks alone; sd-scripts: Anima without llm_adapter; LTX-2's trainer, for video without sound: attn1
# and attn2; musubi-tuner and DiffSynth-Studio: HiDream O1 without its vision tower where no picture is given.
LEFT_OUT = {
    "HunyuanVideo": "txt_in",
    "HunyuanVideoI2V": "txt_in",
    "HunyuanVideoSkyreelsI2V": "txt_in",
    "HunyuanVideo15": "txt_in",
    "HunyuanVideo15_SR_Distilled": "txt_in",
    "HunyuanImage21": "txt_in",
    "HunyuanImage21Refiner": "txt_in",
    "ZImage": "refiner",
    "ZImagePixelSpace": "refiner",
    "Anima": "llm_adapter",
    "LTXAV": "audio",
    "HiDreamO1": "visual",
    "WAN21_HuMo": "audio",
    "WAN22_S2V": "audio",
    "WAN22_WanDancer": "music",
    "Chroma": "distilled_guidance_layer",
    "ChromaRadiance": "nerf_blocks",
    "GenmoMochi": "t5_y_embedder",
    "HunyuanDiT": "pooler",
}
# Modulation, embedders and heads are neither attention nor feed-forward anywhere.
NEVER = re.compile(
    r"[mM]odulation|ada[lL][nN]|(^|\.|_)mod[A-Z]*(\.|_|$)|embed|final_layer|norm|(^|\.)(img_in|txt_in|head)\."
)


@cache
def network(title: str) -> nn.Module:
    """The network of the base without its values, made once."""
    base = next(one for one in BASES if one.title == title)
    return base.model().model.diffusion_model.to("meta")


def base_network(base: Base) -> nn.Module:
    """The same, or a skip where this ComfyUI lacks the base."""
    import comfy.supported_models

    if not hasattr(comfy.supported_models, base.name):
        pytest.skip(f"this ComfyUI has no {base.name}")
    try:
        return network(base.title)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        pytest.skip(f"this ComfyUI's {base.name} is an older one: {error}")


def kinds_in(names: Any) -> set[str]:
    """Paths with N in place of numbers."""
    return {re.sub(r"(?<=\.)(block)?\d+(?=\.|$)", r"\1N", name) for name in names}


def spelled(text: str) -> set[str]:
    """Paths written as a.{b,c}.d, with blanks between them."""
    names = set()
    for word in text.split():
        pieces = [piece.split(",") for piece in re.split(r"[{}]", word)]
        choices = [["".join(piece)] if index % 2 == 0 else piece for index, piece in enumerate(pieces)]
        names |= {"".join(parts) for parts in itertools.product(*choices)}
    return names


def test_spelled() -> None:
    assert spelled("a.{b,c}.d e") == {"a.b.d", "a.c.d", "e"}
    assert kinds_in(["a.10.b.0", "a.3.b2.1", "b.block4.c"]) == {"a.N.b.N", "a.N.b2.N", "b.blockN.c"}


@pytest.fixture(scope="module")
def targets(comfyui_session: Any) -> Any:
    return comfyui_session.module("trainers.settings.targets")


@pytest.fixture(scope="module")
def layer_kinds(comfyui_session: Any) -> Any:
    return comfyui_session.module("trainers.settings.layer_kinds")


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.title)
def test_every_choice_on_every_base(targets: Any, layer_kinds: Any, base: Base) -> None:
    root = base_network(base)
    family = layer_kinds.family_of(root)
    assert family is not None
    assert targets.note_of(root, ATTENTION) == ""
    selected = {choice: set(targets.select(root, choice)) for choice in (*CHOICES, *OTHERS)}
    attention = selected[ATTENTION]
    cross = attention - selected[WITHOUT_CROSS]
    assert selected[WITHOUT_CROSS] <= attention
    assert selected[PAPER] <= attention
    assert attention < selected[FEED_FORWARD] or root_fuses(attention)
    assert (
        selected[FEED_FORWARD]
        < selected["all linear"]
        <= selected["all linear and convolution"]
        <= selected["everything"]
    )
    assert bool(cross) == bool(family.cross)  # the table says cross attention where there is some, and only there
    for name in selected[FEED_FORWARD]:
        assert not NEVER.search(name), name
        assert LEFT_OUT.get(base.name, "\0") not in name, name


def root_fuses(attention: set[str]) -> bool:
    """Whether all feed-forward layers are in the attention's, as in single-stream blocks alone."""
    return all("linear1" in name or "linear2" in name for name in attention)


def test_left_out_layers_are_there() -> None:
    """Each word of LEFT_OUT stands for linear layers that the network has."""
    import comfy.supported_models

    for name, word in LEFT_OUT.items():
        titles = [base.title for base in BASES if base.name == name]
        if not titles or not hasattr(comfy.supported_models, name):
            continue
        assert any(
            word in path and isinstance(module, nn.Linear)
            for title in titles
            for path, module in network(title).named_modules()
        ), name


# ------------------------------------------------------------------------------------------------ written out by hand
# attention, the cross layers in it, paper, and feed-forward. "=": the same as attention; "-": none; "?": some of those
# with other numbers.
UNET = "{input_blocks.N.N,middle_block.N,output_blocks.N.N}.transformer_blocks.N"
UNET_FF = f"{UNET}.ff.net.N {UNET}.ff.net.N.proj"
STREAMS = "double_blocks.N.{img_attn,txt_attn}.{qkv,proj}"
FLUX = (
    f"{STREAMS} single_blocks.N.{{linear1,linear2}}",
    "double_blocks.N.txt_attn.{qkv,proj}",
    STREAMS,
    "double_blocks.N.{img_mlp,txt_mlp}.N single_blocks.N.{linear1,linear2}",
)
QWEN = (
    "transformer_blocks.N.attn.{to_q,to_k,to_v,to_out.N,add_q_proj,add_k_proj,add_v_proj,to_add_out}",
    "transformer_blocks.N.attn.{add_q_proj,add_k_proj,add_v_proj,to_add_out}",
    "transformer_blocks.N.attn.{to_q,to_k,to_v,to_out.N}",
    "transformer_blocks.N.{img_mlp,txt_mlp}.net.{N.proj,N}",
)
COSMOS = (
    "blocks.N.{self_attn,cross_attn}.{q_proj,k_proj,v_proj,output_proj}",
    "blocks.N.cross_attn.{q_proj,k_proj,v_proj,output_proj}",
    "=",
    "blocks.N.mlp.{layer1,layer2}",
)
WAN = ("blocks.N.{self_attn,cross_attn}.{q,k,v,o}", "blocks.N.cross_attn.{q,k,v,o}", "=", "blocks.N.ffn.N")
LTX = (
    "transformer_blocks.N.{attn1,attn2}.{to_q,to_k,to_v,to_out.N}",
    "transformer_blocks.N.attn2.{to_q,to_k,to_v,to_out.N}",
    "=",
    "transformer_blocks.N.ff.net.{N.proj,N}",
)
Z_IMAGE = ("layers.N.attention.{qkv,out}", "-", "=", "layers.N.feed_forward.{w1,w2,w3}")
ALL_LUMINA = "{layers,noise_refiner,context_refiner}"
ALL_OMNIGEN = "{layers,noise_refiner,context_refiner,ref_image_refiner}"
HIDREAM = "{double_stream_blocks,single_stream_blocks}.N.block"
KANDINSKY = (
    "{text_transformer_blocks.N.self_attention,visual_transformer_blocks.N.self_attention,"
    "visual_transformer_blocks.N.cross_attention}.{to_query,to_key,to_value,out_layer}"
)
KREA = "{blocks,txtfusion.layerwise_blocks,txtfusion.refiner_blocks}.N"

EXACT: dict[str, tuple[str, str, str, str]] = {
    # diffusers: to_k, to_q, to_v, to_out.0; sd-scripts: all of the transformers' attention and ff
    "SD15": (
        f"{UNET}.{{attn1,attn2}}.{{to_q,to_k,to_v,to_out.N}}",
        f"{UNET}.attn2.{{to_q,to_k,to_v,to_out.N}}",
        "=",
        UNET_FF,
    ),
    "SD20": (
        f"{UNET}.{{attn1,attn2}}.{{to_q,to_k,to_v,to_out.N}}",
        f"{UNET}.attn2.{{to_q,to_k,to_v,to_out.N}}",
        "=",
        UNET_FF,
    ),
    # diffusers: attn.to_q ... of both streams
    "SD3": (
        "joint_blocks.N.{x_block,context_block}.attn.{qkv,proj}",
        "joint_blocks.N.context_block.attn.{qkv,proj}",
        "=",
        "joint_blocks.N.{x_block,context_block}.mlp.{fc1,fc2}",
    ),
    "SD3 3.5 medium": (
        "joint_blocks.N.{x_block,context_block}.attn.{qkv,proj} joint_blocks.N.x_block.attn2.{qkv,proj}",
        "joint_blocks.N.context_block.attn.{qkv,proj}",
        "=",
        "joint_blocks.N.{x_block,context_block}.mlp.{fc1,fc2}",
    ),
    # sd-scripts and musubi-tuner: DoubleStreamBlock and SingleStreamBlock, without mod.lin and modulation.lin
    "Flux": FLUX,
    "FluxInpaint": FLUX,
    "FluxSchnell": FLUX,
    "Flux2": FLUX,
    "LongCatImage": FLUX,
    "Chroma": FLUX,
    "ChromaRadiance": FLUX,
    "HunyuanImage21": FLUX,
    "HunyuanVideo": FLUX,
    # SimpleTuner: the eight projections
    "AuraFlow": (
        "double_layers.N.attn.{w1q,w1k,w1v,w1o,w2q,w2k,w2v,w2o} single_layers.N.attn.{w1q,w1k,w1v,w1o}",
        "double_layers.N.attn.{w1q,w1k,w1v,w1o}",
        "double_layers.N.attn.{w2q,w2k,w2v,w2o} single_layers.N.attn.{w1q,w1k,w1v,w1o}",
        "double_layers.N.{mlpC,mlpX}.{c_fc1,c_fc2,c_proj} single_layers.N.mlp.{c_fc1,c_fc2,c_proj}",
    ),
    # its maker's script: to_q, to_k, to_v, to_out.0 of both, and ff
    "PixArtSigma": (
        "blocks.N.attn.{qkv,proj} blocks.N.cross_attn.{q_linear,kv_linear,proj}",
        "blocks.N.cross_attn.{q_linear,kv_linear,proj}",
        "=",
        "blocks.N.mlp.{fc1,fc2}",
    ),
    # its maker's script: Wqkv, q_proj, kv_proj, out_proj
    "HunyuanDiT": (
        "blocks.N.attn1.{Wqkv,out_proj} blocks.N.attn2.{q_proj,kv_proj,out_proj}",
        "blocks.N.attn2.{q_proj,kv_proj,out_proj}",
        "=",
        "blocks.N.mlp.{fc1,fc2}",
    ),
    # OneTrainer: attn1, ff_i
    "HiDream": (
        f"{HIDREAM}.attn1.{{to_q,to_k,to_v,to_out}} "
        "double_stream_blocks.N.block.attn1.{to_q_t,to_k_t,to_v_t,to_out_t}",
        "double_stream_blocks.N.block.attn1.{to_q_t,to_k_t,to_v_t,to_out_t}",
        f"{HIDREAM}.attn1.{{to_q,to_k,to_v,to_out}}",
        f"{HIDREAM}.ff_i.{{shared_experts,experts.N}}.{{w1,w2,w3}} double_stream_blocks.N.block.ff_t.{{w1,w2,w3}}",
    ),
    # musubi-tuner: ZImageTransformerBlock without _modulation and _refiner; OneTrainer: attention, feed_forward without
    # refiner
    "ZImage": Z_IMAGE,
    "ZImage omni": Z_IMAGE,
    "ZImagePixelSpace": Z_IMAGE,
    # sd-scripts: JointTransformerBlock, refiners with it; diffusers: to_q ... wherever it is
    "Lumina2": (f"{ALL_LUMINA}.N.attention.{{qkv,out}}", "-", "=", f"{ALL_LUMINA}.N.feed_forward.{{w1,w2,w3}}"),
    # its maker: to_k, to_q, to_v, to_out.0 wherever they are
    "Omnigen2": (
        f"{ALL_OMNIGEN}.N.attn.{{to_q,to_k,to_v,to_out.N}}",
        "-",
        "=",
        f"{ALL_OMNIGEN}.N.feed_forward.{{linear_1,linear_2,linear_3}}",
    ),
    # OneTrainer: attn, img_mlp, txt_mlp; diffusers: to_k, to_q, to_v, to_out.0
    "QwenImage": QWEN,
    "MageFlow": QWEN,
    "Ideogram4": ("layers.N.attention.{qkv,o}", "-", "=", "layers.N.feed_forward.{w1,w2,w3}"),
    # diffusers: to_q, to_k, to_v, to_out.0, to_gate, ff.up, ff.down, wherever they are
    "Krea2": (f"{KREA}.attn.{{wq,wk,wv,wo,gate}}", "-", f"{KREA}.attn.{{wq,wk,wv,wo}}", f"{KREA}.mlp.{{gate,up,down}}"),
    "ErnieImage": (
        "layers.N.self_attention.{to_q,to_k,to_v,to_out.N}",
        "-",
        "=",
        "layers.N.mlp.{gate_proj,up_proj,linear_fc2}",
    ),
    "Kandinsky5Image": (
        KANDINSKY,
        "visual_transformer_blocks.N.cross_attention.{to_query,to_key,to_value,out_layer}",
        "=",
        "{text_transformer_blocks,visual_transformer_blocks}.N.feed_forward.{in_layer,out_layer}",
    ),
    # their makers: q_proj, k_proj, v_proj, output_proj, mlp.layer1, mlp.layer2; sd-scripts: no llm_adapter
    "CosmosT2IPredict2": COSMOS,
    "Anima": COSMOS,
    # musubi-tuner: WanAttentionBlock without norms, embeddings and the head
    "WAN21_T2V": WAN,
    "WAN22_T2V": WAN,
    "WAN22_S2V": WAN,
    # its maker's trainers: attn1 and attn2, ff
    "LTXV": LTX,
    "LTXAV": LTX,
    # OneTrainer: attention
    "Stable_Cascade_C": (
        "{down_blocks,up_blocks}.N.N.attention.attn.{to_q,to_k,to_v,out_proj}",
        "-",
        "=",
        "{down_blocks,up_blocks}.N.N.channelwise.N",
    ),
    "Lens": (
        "transformer_blocks.N.attn.{img_qkv,txt_qkv,to_out.N,to_add_out}",
        "transformer_blocks.N.attn.{txt_qkv,to_add_out}",
        "transformer_blocks.N.attn.{img_qkv,to_out.N}",
        "transformer_blocks.N.{img_mlp,txt_mlp}.{w1,w2,w3}",
    ),
    # its blocks are attention, cross attention and feed-forward
    "CosmosT2V": (
        "blocks.blockN.blocks.N.block.attn.{to_q,to_k,to_v,to_out}.N",
        "?",
        "=",
        "blocks.blockN.blocks.N.block.{layer1,layer2}",
    ),
    "GenmoMochi": (
        "blocks.N.attn.{qkv_x,qkv_y,proj_x,proj_y}",
        "blocks.N.attn.{qkv_y,proj_y}",
        "blocks.N.attn.{qkv_x,proj_x}",
        "blocks.N.{mlp_x,mlp_y}.{w1,w2}",
    ),
    "CogVideoX_T2V": ("blocks.N.{q,k,v,attn_out}", "-", "=", "blocks.N.{ff_proj,ff_out}"),
}


@pytest.mark.parametrize("title", EXACT)
def test_written_out_by_hand(targets: Any, title: str) -> None:
    root = base_network(next(base for base in BASES if base.title == title))
    attention, cross, paper, feed_forward = (spelled(text) - {"=", "-", "?"} for text in EXACT[title])
    paper = paper or attention

    def selected_kinds(choice: str) -> set[str]:
        return kinds_in(targets.select(root, choice))

    assert selected_kinds(ATTENTION) == attention
    assert selected_kinds(WITHOUT_CROSS) == attention - cross
    assert cross <= attention  # "?" differs in numbers alone
    assert selected_kinds(PAPER) == paper
    assert selected_kinds(FEED_FORWARD) == attention | feed_forward


# --------------------------------------------------------------------------------------------- lists of target modules
# Where ComfyUI has the names that the trainer's list is for; PEFT says which layers such a list means.
PEFT_LISTS: list[tuple[str, str, list[str]]] = [
    ("SD15", ATTENTION, ["to_k", "to_q", "to_v", "to_out.0"]),  # diffusers
    ("SDXL", PAPER, ["to_k", "to_q", "to_v", "to_out.0"]),
    ("QwenImage", PAPER, ["to_k", "to_q", "to_v", "to_out.0"]),
    ("Omnigen2", ATTENTION, ["to_k", "to_q", "to_v", "to_out.0"]),  # its maker
    ("LTXV", ATTENTION, ["to_k", "to_q", "to_v", "to_out.0"]),  # its maker
    # DiffSynth-Studio
    (
        "QwenImage",
        ATTENTION,
        ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"],
    ),
    (
        "Boogu",
        ATTENTION,
        [
            "to_q",
            "to_k",
            "to_v",
            "to_out.0",
            "img_to_q",
            "img_to_k",
            "img_to_v",
            "img_out",
            "instruct_to_q",
            "instruct_to_k",
            "instruct_to_v",
            "instruct_out",
        ],
    ),
    ("JoyImage", ATTENTION, ["img_attn_qkv", "txt_attn_qkv", "img_attn_proj", "txt_attn_proj"]),
    ("Krea2", FEED_FORWARD, ["wq", "wk", "wv", "gate", "wo", "up", "down"]),
    ("WAN21_T2V", FEED_FORWARD, ["q", "k", "v", "o", "ffn.0", "ffn.2"]),
    ("HiDreamO1", FEED_FORWARD, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    (
        "Ideogram4",
        FEED_FORWARD,
        ["attention.qkv", "attention.o", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"],
    ),
    # Cosmos Predict 2's maker
    ("CosmosT2IPredict2", FEED_FORWARD, ["q_proj", "k_proj", "v_proj", "output_proj", "mlp.layer1", "mlp.layer2"]),
]
# Regular expressions of musubi-tuner's, which the whole path begins with.
MUSUBI_LISTS: list[tuple[str, list[str]]] = [
    (
        "Kandinsky5",
        [
            rf".*{kind}_attention\.{part}.*"
            for kind in ("self", "cross")
            for part in ("to_query", "to_key", "to_value", "out_layer")
        ]
        + [r".*feed_forward\.in_layer.*", r".*feed_forward\.out_layer.*"],
    ),
    ("MageFlow", [r"transformer_blocks\.\d+\.(?:attn|img_mlp|txt_mlp)\..*"]),
    ("Ideogram4", [r".*attention\.(qkv|o)", r".*feed_forward\.w[123]"]),
]


@pytest.mark.parametrize(("title", "choice", "modules"), PEFT_LISTS)
def test_lists_of_target_modules(targets: Any, title: str, choice: str, modules: list[str]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    root = base_network(next(base for base in BASES if base.title == title))
    config = LoraConfig(target_modules=modules)
    expected = {
        name
        for name, module in root.named_modules()
        if isinstance(module, nn.Linear) and check_target_module_exists(config, name)
    }
    assert expected
    assert set(targets.select(root, choice)) == expected


@pytest.mark.parametrize(("title", "patterns"), MUSUBI_LISTS, ids=[title for title, _ in MUSUBI_LISTS])
def test_musubi_tuners_lists(targets: Any, title: str, patterns: list[str]) -> None:
    root = base_network(next(base for base in BASES if base.title == title))
    expected = {
        name
        for name, module in root.named_modules()
        if isinstance(module, nn.Linear) and any(re.match(pattern, name) for pattern in patterns)
    }
    assert expected
    assert set(targets.select(root, FEED_FORWARD)) == expected


# ------------------------------------------------------------------------------------------------------ general rules


class LatestAttention(nn.Module):
    """Known by its class."""

    def __init__(self) -> None:
        super().__init__()
        self.query_and_more = nn.Linear(8, 24)
        self.last = nn.Linear(8, 8)


class LatestBlock(nn.Module):
    """Attention known by its class, by its name, and by its projections in the block itself."""

    def __init__(self) -> None:
        super().__init__()
        self.look = LatestAttention()
        self.cross_attn = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("to_q", "to_k", "to_v", "to_out")})
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        self.modulation = nn.Linear(8, 48)


class LatestNetwork(nn.Module):
    """An architecture that no table has."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder = nn.Linear(8, 8)
        self.layers = nn.ModuleList([LatestBlock() for _ in range(2)])
        self.text_refiner = nn.ModuleList([LatestBlock()])
        self.fused = nn.ModuleDict({"linear1": nn.Linear(8, 56), "linear2": nn.Linear(40, 8)})


def test_an_unknown_network(targets: Any, caplog: pytest.LogCaptureFixture) -> None:
    root = LatestNetwork()
    cross = "layers.N.cross_attn.{to_q,to_k,to_v,to_out}"
    attention = spelled(f"layers.N.{{q_proj,k_proj,v_proj,look.query_and_more}} {cross} fused.{{linear1,linear2}}")
    with caplog.at_level(logging.INFO):
        kinds = kinds_in(targets.select(root, ATTENTION)) - {"layers.N.look.last"}
    assert kinds == attention
    note = targets.note_of(root, ATTENTION)
    assert "LatestNetwork" in note
    assert "general rules" in note
    assert note in caplog.text
    assert targets.note_of(root, "all linear") == ""
    assert kinds_in(targets.select(root, WITHOUT_CROSS)) - {"layers.N.look.last"} == attention - spelled(cross)
    assert kinds_in(targets.select(root, PAPER)) == spelled(f"layers.N.{{q_proj,k_proj,v_proj}} {cross}")
    fed = kinds_in(targets.select(root, FEED_FORWARD)) - {"layers.N.look.last"}
    assert fed == attention | {"layers.N.mlp.N"}


def test_the_error_names_the_general_rules(targets: Any) -> None:
    root = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Conv2d(4, 4, 1)})
    with pytest.raises(ValueError, match=r"No layer of ModuleDict matches .* its layers end in one, two; .* general"):
        targets.select(root, ATTENTION)
    with pytest.raises(ValueError) as caught:
        targets.select(root, "all linear", "nowhere")
    assert "general rules" not in str(caught.value)
    with pytest.raises(ValueError, match="Unknown choice of layers 'some'"):
        targets.select(root, "some")


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.title)
def test_general_rules_on_every_base(
    targets: Any, layer_kinds: Any, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network would get that is built like this one and is not in the table."""
    root = base_network(base)
    kinds = layer_kinds.kinds_of(root)
    monkeypatch.setattr(layer_kinds, "FAMILIES", ())
    general = layer_kinds.kinds_of(root)
    assert general.general
    assert not kinds.general
    for choice in CHOICES:
        assert targets.select(root, choice)
    assert general.paper <= general.attention
    assert general.cross <= general.attention
    # Refiners are left out in any case; of the rest all attention is found.
    assert {name for name in kinds.attention if "refiner" not in name} <= general.attention
    assert not any(NEVER.search(name) for name in general.attention | general.feed_forward)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.title)
def test_nothing_is_forgotten(layer_kinds: Any, base: Base) -> None:
    """What looks like attention is taken, or the table says that it is left out."""
    root = base_network(base)
    family, kinds = layer_kinds.family_of(root), layer_kinds.kinds_of(root)
    linear = {name: module for name, module in root.named_modules() if isinstance(module, nn.Linear)}
    looks = layer_kinds.general_kinds(root, linear, sides=True).attention
    left_out = {name for name in linear if layer_kinds.families.compiled(family.left_out).fullmatch(name)}
    assert kinds_in(looks - kinds.attention - kinds.feed_forward - left_out) == set()
    assert not left_out & (kinds.attention | kinds.feed_forward)


def test_a_class_made_of_a_known_one(layer_kinds: Any) -> None:
    import comfy.ldm.flux.model

    class Changed(comfy.ldm.flux.model.Flux):
        """A network as custom nodes make it."""

        def __init__(self) -> None:
            nn.Module.__init__(self)

    assert "Flux.1" in layer_kinds.family_of(Changed()).title


def test_the_table(layer_kinds: Any) -> None:
    """No class stands in two entries that do not tell them apart; the documentation has a row for each entry."""
    page = (ROOT / "docs" / "architectures.md").read_text()
    rows = [
        line.split("|")[1].strip()
        for line in page.partition("## Which layers a choice takes")[2].splitlines()
        if line.startswith("| ")
    ]
    assert rows[1:] == [family.title for family in layer_kinds.FAMILIES]
    seen: set[str] = set()
    for family in layer_kinds.FAMILIES:
        assert not seen & set(family.classes), family.title
        if family.when is None:
            seen |= set(family.classes)


def test_cosmos_1_looks_at_the_text_in_its_second_layers(targets: Any) -> None:
    """ComfyUI's own modules are marked as such."""
    root = base_network(next(base for base in BASES if base.title == "CosmosT2V"))

    def of_itself(name: str) -> bool:
        return root.get_submodule(name.partition(".attn.")[0] + ".attn").is_selfattn

    assert {name for name in targets.select(root, ATTENTION) if of_itself(name)} == set(
        targets.select(root, WITHOUT_CROSS)
    )


def test_text_encoders(targets: Any) -> None:
    """All projections, wherever they are called so, and no note."""
    import comfy.ops
    import comfy.text_encoders.llama
    import comfy.text_encoders.t5

    sizes = {
        "num_layers": 2,
        "d_model": 16,
        "d_ff": 32,
        "d_kv": 8,
        "num_heads": 2,
        "vocab_size": 10,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": "t5",
    }
    t5 = comfy.text_encoders.t5.T5(sizes, torch.float32, "meta", comfy.ops.disable_weight_init)
    assert kinds_in(targets.select(t5, ATTENTION)) == spelled("encoder.block.N.layer.N.SelfAttention.{q,k,v,o}")
    assert kinds_in(targets.select(t5, FEED_FORWARD)) == spelled(
        "encoder.block.N.layer.N.SelfAttention.{q,k,v,o} encoder.block.N.layer.N.DenseReluDense.{wi_0,wi_1,wo}"
    )
    small = {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 10,
    }
    llama = comfy.text_encoders.llama.Qwen3_4B(small, torch.float32, "meta", comfy.ops.disable_weight_init)
    assert kinds_in(targets.select(llama, ATTENTION)) == spelled("model.layers.N.self_attn.{q,k,v,o}_proj")
    assert targets.note_of(llama, ATTENTION) == ""
