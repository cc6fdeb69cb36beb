"""The table of architectures: which layers are attention, cross attention and feed-forward, which are skipped.

A pattern is a path in the network in which `N` is a number, `*` one part and `**` any number of parts; the rest is a
regular expression whose dots mean dots. Several patterns stand with blanks between them. What no pattern takes is
neither attention nor feed-forward: embedders, modulation, norms, heads.

How to add an architecture: one entry in FAMILIES, with the classes of its networks below `comfy.ldm`. A class that is
made from one of them needs none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from .kinds import Kinds

_SIGNS = {"N": r"\d+", "*": r"[^.]+", "**": ".*", r"**\.": r"(?:.+\.)?"}


@lru_cache
def compiled(patterns: str) -> re.Pattern[str]:
    """The regular expression of patterns, for a whole path; no patterns find nothing."""
    text = "|".join(patterns.split()).replace(".", r"\.")
    return re.compile(re.sub(r"\*\*\\\.|\*\*|\*|(?<!\w)N(?!\w)", lambda sign: _SIGNS[sign[0]], text) or r"(?!)")


@dataclass(frozen=True)
class Family:
    """An architecture.

    title: for the documentation. networks: classes below `comfy.ldm`.
    attention, cross, feed_forward, paper: see Kinds; no `paper` means all of `attention`.
    left_out: layers that look like one of these kinds, and that the reference trainers skip; it goes before the
    others.
    when: tells apart networks of one class.
    """

    title: str
    networks: tuple[str, ...]
    attention: str
    feed_forward: str
    cross: str = ""
    paper: str = ""
    left_out: str = ""
    when: Callable[[nn.Module], bool] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Whole paths of the classes."""
        return tuple(f"comfy.ldm.{network}" for network in self.networks)

    def kinds(self, linear: Iterable[str]) -> Kinds:
        """The layers of a network that has these linear layers."""
        left_out = compiled(self.left_out)
        names = [name for name in linear if not left_out.fullmatch(name)]

        def matching(patterns: str) -> frozenset[str]:
            return frozenset(name for name in names if compiled(patterns).fullmatch(name))

        return Kinds(
            attention=matching(self.attention),
            cross=matching(self.cross),
            paper=matching(self.paper or self.attention),
            feed_forward=matching(self.feed_forward),
        )


def is_z_image(root: nn.Module) -> bool:
    """Whether a NextDiT is a Z-Image, whose blocks have a modulation without an activation, and no Lumina 2."""
    layers: Any = getattr(root, "layers", ())
    return len(layers) > 0 and len(getattr(layers[0], "adaLN_modulation", ())) == 1


_TWO_STREAMS = "double_blocks.N.(img|txt)_attn.(qkv|proj)"
_JOINT_QKV = "attn.(to_(q|k|v|add_out)|to_out.N|add_(q|k|v)_proj)"
_LUMINA = "(layers|noise_refiner|context_refiner|siglip_refiner)"
_OMNIGEN_BLOCKS = "(noise_refiner|ref_image_refiner|context_refiner|layers)"
_BOOGU_BLOCKS = "(noise_refiner|ref_image_refiner|context_refiner|single_stream_layers)"
_BOOGU_DOUBLE = "double_stream_layers.N"

FAMILIES: tuple[Family, ...] = (
    Family(
        "SD 1.5, 2.x, SDXL, SSD-1B, Segmind, KOALA, SVD",
        ("modules.diffusionmodules.openaimodel.UNetModel",),
        attention="**.attn(1|2).(to_(q|k|v)|to_out.N)",
        cross="**.attn2.(to_(q|k|v)|to_out.N)",
        feed_forward="**.(ff|ff_in).net.N(.proj)?",
    ),
    Family(
        # kv is the picture's own tokens and the text's in one.
        "Stable Cascade",
        ("cascade.stage_b.StageB", "cascade.stage_c.StageC"),
        attention="**.attention.attn.(to_(q|k|v)|out_proj)",
        feed_forward="**.channelwise.N",
    ),
    Family(
        # x_block.attn2 of 3.5 medium is a second attention of the picture to itself.
        "SD3, SD3.5",
        ("modules.diffusionmodules.mmdit.MMDiT",),
        attention="joint_blocks.N.(context|x)_block.(attn|attn2).(qkv|proj)",
        cross="joint_blocks.N.context_block.attn.(qkv|proj)",
        feed_forward="joint_blocks.N.(context|x)_block.mlp.fc[12]",
    ),
    Family(
        # linear1 is q, k, v and the first feed-forward layer, linear2 the output and the second; so they are in both
        # kinds, and not among the paper's four.
        "Flux.1, Flux.2, LongCat-Image, Chroma, Chroma Radiance, Hunyuan3D 2.0",
        ("flux.model.Flux", "chroma.model.Chroma", "hunyuan3d.model.Hunyuan3Dv2"),
        attention=f"{_TWO_STREAMS} single_blocks.N.linear[12]",
        cross="double_blocks.N.txt_attn.(qkv|proj)",
        paper=_TWO_STREAMS,
        feed_forward="double_blocks.N.(img|txt)_mlp.N single_blocks.N.linear[12]",
        left_out="distilled_guidance_layer.** nerf_blocks.**",
    ),
    Family(
        "HunyuanVideo, HunyuanVideo 1.5, HunyuanImage 2.1",
        ("hunyuan_video.model.HunyuanVideo",),
        attention=f"{_TWO_STREAMS} single_blocks.N.linear[12]",
        cross="double_blocks.N.txt_attn.(qkv|proj)",
        paper=_TWO_STREAMS,
        feed_forward="double_blocks.N.(img|txt)_mlp.N single_blocks.N.linear[12]",
        left_out="txt_in.**",
    ),
    Family(
        # w1 is the text's and w2 the picture's in double layers.
        "AuraFlow",
        ("aura.mmdit.MMDiT",),
        attention="double_layers.N.attn.w[12](q|k|v|o) single_layers.N.attn.w1(q|k|v|o)",
        cross="double_layers.N.attn.w1(q|k|v|o)",
        paper="double_layers.N.attn.w2(q|k|v|o) single_layers.N.attn.w1(q|k|v|o)",
        feed_forward="double_layers.N.mlp(C|X).c_(fc1|fc2|proj) single_layers.N.mlp.c_(fc1|fc2|proj)",
    ),
    Family(
        "PixArt alpha, PixArt sigma",
        ("pixart.pixartms.PixArtMS",),
        attention="blocks.N.attn.(qkv|proj) blocks.N.cross_attn.(q_linear|kv_linear|proj)",
        cross="blocks.N.cross_attn.(q_linear|kv_linear|proj)",
        feed_forward="blocks.N.mlp.fc[12]",
    ),
    Family(
        "HunyuanDiT",
        ("hydit.models.HunYuanDiT",),
        attention="blocks.N.attn1.(Wqkv|out_proj) blocks.N.attn2.(q|kv|out)_proj",
        cross="blocks.N.attn2.(q|kv|out)_proj",
        feed_forward="blocks.N.mlp.fc[12]",
        left_out="pooler.**",
    ),
    Family(
        "HiDream I1",
        ("hidream.model.HiDreamImageTransformer2DModel",),
        attention="(double|single)_stream_blocks.N.block.attn1.to_(q|k|v|out)(_t)?",
        cross="double_stream_blocks.N.block.attn1.to_(q|k|v|out)_t",
        paper="(double|single)_stream_blocks.N.block.attn1.to_(q|k|v|out)",
        feed_forward="(double|single)_stream_blocks.N.block.ff_(i|t)(.shared_experts|.experts.N)?.w[123]",
    ),
    Family(
        "HiDream O1",
        ("hidream_o1.model.HiDreamO1Transformer",),
        attention="language_model.layers.N.self_attn.(q|k|v|o)_proj",
        feed_forward="language_model.layers.N.mlp.(gate|up|down)_proj",
        left_out="visual.**",
    ),
    Family(
        "Z-Image",
        ("lumina.model.NextDiT",),
        attention="layers.N.attention.(qkv|out)",
        feed_forward="layers.N.feed_forward.w[123]",
        left_out="(noise|context|siglip)_refiner.** dec_net.**",
        when=is_z_image,
    ),
    Family(
        "Lumina 2",
        ("lumina.model.NextDiT",),
        attention=f"{_LUMINA}.N.attention.(qkv|out)",
        feed_forward=f"{_LUMINA}.N.feed_forward.w[123]",
        left_out="dec_net.**",
    ),
    Family(
        "OmniGen2",
        ("omnigen.omnigen2.OmniGen2Transformer2DModel",),
        attention=f"{_OMNIGEN_BLOCKS}.N.attn.(to_(q|k|v)|to_out.N)",
        feed_forward=f"{_OMNIGEN_BLOCKS}.N.feed_forward.linear_[123]",
    ),
    Family(
        "Boogu",
        ("boogu.model.BooguTransformer2DModel",),
        attention=f"{_BOOGU_BLOCKS}.N.attn.(to_(q|k|v)|to_out.N) {_BOOGU_DOUBLE}.img_self_attn.(to_(q|k|v)|to_out.N) "
        f"{_BOOGU_DOUBLE}.img_instruct_attn.(to_out.N|processor.(img|instruct)_(to_(q|k|v)|out))",
        cross=f"{_BOOGU_DOUBLE}.img_instruct_attn.processor.instruct_(to_(q|k|v)|out)",
        paper=f"{_BOOGU_BLOCKS}.N.attn.(to_(q|k|v)|to_out.N) {_BOOGU_DOUBLE}.img_self_attn.(to_(q|k|v)|to_out.N) "
        f"{_BOOGU_DOUBLE}.img_instruct_attn.(to_out.N|processor.img_(to_(q|k|v)|out))",
        feed_forward=f"{_BOOGU_BLOCKS}.N.feed_forward.linear_[123] "
        f"{_BOOGU_DOUBLE}.(img|instruct)_feed_forward.linear_[123]",
    ),
    Family(
        "Qwen-Image, Qwen-Image Edit, Mage-Flow",
        ("qwen_image.model.QwenImageTransformer2DModel", "mage_flow.model.MageFlowTransformer2DModel"),
        attention=f"transformer_blocks.N.{_JOINT_QKV}",
        cross="transformer_blocks.N.attn.(to_add_out|add_(q|k|v)_proj)",
        paper="transformer_blocks.N.attn.(to_(q|k|v)|to_out.N)",
        feed_forward="transformer_blocks.N.(img|txt)_mlp.net.N(.proj)?",
    ),
    Family(
        "Lens",
        ("lens.model.LensTransformer2DModel",),
        attention="transformer_blocks.N.attn.((img|txt)_qkv|to_out.N|to_add_out)",
        cross="transformer_blocks.N.attn.(txt_qkv|to_add_out)",
        paper="transformer_blocks.N.attn.(img_qkv|to_out.N)",
        feed_forward="transformer_blocks.N.(img|txt)_mlp.w[123]",
    ),
    Family(
        "JoyImage",
        ("joyimage.model.JoyImageTransformer3DModel",),
        attention="double_blocks.N.attn.(img|txt)_attn_(qkv|proj)",
        cross="double_blocks.N.attn.txt_attn_(qkv|proj)",
        paper="double_blocks.N.attn.img_attn_(qkv|proj)",
        feed_forward="double_blocks.N.(img|txt)_mlp.net.N(.proj)?",
    ),
    Family(
        "Ideogram 4",
        ("ideogram4.model.Ideogram4Transformer",),
        attention="layers.N.attention.(qkv|o)",
        feed_forward="layers.N.feed_forward.w[123]",
    ),
    Family(
        # `gate` belongs to attention in the maker's list; txtfusion is in it, too.
        "Krea 2",
        ("krea2.model.SingleStreamDiT",),
        attention="(blocks|txtfusion.(layerwise|refiner)_blocks).N.attn.(wq|wk|wv|wo|gate)",
        paper="(blocks|txtfusion.(layerwise|refiner)_blocks).N.attn.(wq|wk|wv|wo)",
        feed_forward="(blocks|txtfusion.(layerwise|refiner)_blocks).N.mlp.(gate|up|down)",
    ),
    Family(
        "ERNIE-Image",
        ("ernie.model.ErnieImageModel",),
        attention="layers.N.self_attention.(to_(q|k|v)|to_out.N)",
        feed_forward="layers.N.mlp.(gate_proj|up_proj|linear_fc2)",
    ),
    Family(
        "Kandinsky 5",
        ("kandinsky5.model.Kandinsky5",),
        attention="(text|visual)_transformer_blocks.N.(self|cross)_attention.(to_(query|key|value)|out_layer)",
        cross="visual_transformer_blocks.N.cross_attention.(to_(query|key|value)|out_layer)",
        feed_forward="(text|visual)_transformer_blocks.N.feed_forward.(in|out)_layer",
    ),
    Family(
        "PixelDiT, PiD",
        ("pixeldit.model.PixDiT_T2I",),
        attention="patch_blocks.N.attn.(qkv|proj)_(x|y) pixel_blocks.N.attn.(qkv|proj)",
        cross="patch_blocks.N.attn.(qkv|proj)_y",
        paper="patch_blocks.N.attn.(qkv|proj)_x pixel_blocks.N.attn.(qkv|proj)",
        feed_forward="patch_blocks.N.mlp_(x|y).w[123] pixel_blocks.N.mlp.fc[12]",
        left_out="lq_proj.**",
    ),
    Family(
        # A block is full attention, cross attention, feed-forward, in this order.
        "Cosmos 1",
        ("cosmos.model.GeneralDIT",),
        attention="blocks.*.blocks.N.block.attn.to_(q|k|v|out).N",
        cross="blocks.*.blocks.1.block.attn.to_(q|k|v|out).N",
        feed_forward="blocks.*.blocks.N.block.layer[12]",
    ),
    Family(
        "Cosmos Predict 2, Anima",
        ("cosmos.predict2.MiniTrainDIT",),
        attention="blocks.N.(self|cross)_attn.(q|k|v|output)_proj",
        cross="blocks.N.cross_attn.(q|k|v|output)_proj",
        feed_forward="blocks.N.mlp.layer[12]",
        left_out="llm_adapter.** blocks.N.adaln_modulation_**",
    ),
    Family(
        # k_img and v_img are for the reference picture of models from an image.
        "Wan 2.1, Wan 2.2",
        ("wan.model.WanModel",),
        attention="(blocks|vace_blocks).N.(self_attn.(q|k|v|o)|cross_attn.(q|k|v|o|k_img|v_img))",
        cross="(blocks|vace_blocks).N.cross_attn.(q|k|v|o|k_img|v_img)",
        paper="(blocks|vace_blocks).N.(self|cross)_attn.(q|k|v|o)",
        feed_forward="(blocks|vace_blocks).N.ffn.N",
        left_out="music_encoder.** music_injector.** audio_injector.** blocks.N.audio_cross_attn_wrapper.** "
        "face_adapter.**",
    ),
    Family(
        "LTX-Video, LTX-2",
        ("lightricks.model.LTXBaseModel",),
        attention="transformer_blocks.N.attn[12].(to_(q|k|v)|to_out.N)",
        cross="transformer_blocks.N.attn2.(to_(q|k|v)|to_out.N)",
        feed_forward="transformer_blocks.N.ff.net.N(.proj)?",
        left_out="(audio|video)_embeddings_connector.** transformer_blocks.N.audio_** "
        "transformer_blocks.N.video_to_audio_attn.** transformer_blocks.N.attn[12].to_gate_logits",
    ),
    Family(
        "Mochi",
        ("genmo.joint_model.asymm_models_joint.AsymmDiTJoint",),
        attention="blocks.N.attn.(qkv|proj)_(x|y)",
        cross="blocks.N.attn.(qkv|proj)_y",
        paper="blocks.N.attn.(qkv|proj)_x",
        feed_forward="blocks.N.mlp_(x|y).w[12]",
        left_out="t5_y_embedder.**",
    ),
    Family(
        "CogVideoX",
        ("cogvideo.model.CogVideoXTransformer3DModel",),
        attention="blocks.N.(q|k|v|attn_out)",
        feed_forward="blocks.N.ff_(proj|out)",
    ),
    Family(
        "SeedVR2",
        ("seedvr.model.NaDiT",),
        attention="blocks.N.attn.proj_(qkv|out).(vid|txt|all)",
        cross="blocks.N.attn.proj_(qkv|out).txt",
        paper="blocks.N.attn.proj_(qkv|out).(vid|all)",
        feed_forward="blocks.N.mlp.(vid|txt|all).proj_(in|in_gate|out)",
    ),
    Family(
        "MiniMax H3",
        ("minimax.model.MiniMaxH3Model",),
        attention="(blocks|token_refiner.blocks).N.attn.(qkv|out)_proj",
        feed_forward="(blocks|token_refiner.blocks).N.mlp.fc[12]",
    ),
)
