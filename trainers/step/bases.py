"""The models that ComfyUI loads: which are trained in this pack's tests, and which are refused, and why.

A class of `comfy.supported_models` that stands in neither list is newer than the pack or another pack's. It is trained,
and its first step is checked (see `checking`). tests/comfy/test_bases.py trains every class of TRAINED, and fails when
ComfyUI has one that is in no list.
"""

from __future__ import annotations

from typing import Any

from ...models.titles import class_of, title_of

TRAINED: frozenset[str] = frozenset(
    {
        # UNets
        "KOALA_1B",
        "KOALA_700M",
        "SD15",
        "SD15_instructpix2pix",
        "SD20",
        "SD21UnclipH",
        "SD21UnclipL",
        "SD_X4Upscaler",
        "SDXL",
        "SDXL_instructpix2pix",
        "SDXLRefiner",
        "Segmind_Vega",
        "SSD1B",
        "Stable_Cascade_B",
        "Stable_Cascade_C",
        "Stable_Zero123",
        "SV3D_p",
        "SV3D_u",
        "SVD_img2vid",
        # Pictures
        "Anima",
        "AuraFlow",
        "Boogu",
        "Chroma",
        "ChromaRadiance",
        "CosmosI2VPredict2",
        "CosmosT2IPredict2",
        "ErnieImage",
        "Flux",
        "Flux2",
        "FluxInpaint",
        "FluxSchnell",
        "HiDream",
        "HiDreamO1",
        "HunyuanDiT",
        "HunyuanDiT1",
        "HunyuanImage21",
        "HunyuanImage21Refiner",
        "Ideogram4",
        "JoyImage",
        "Kandinsky5Image",
        "Krea2",
        "Lens",
        "LongCatImage",
        "Lumina2",
        "MageFlow",
        "Omnigen2",
        "PiD",
        "PixArtAlpha",
        "PixArtSigma",
        "PixelDiTT2I",
        "QwenImage",
        "SD3",
        "ZImage",
        "ZImagePixelSpace",
        # Videos, trained on single frames
        "CogVideoX_I2V",
        "CogVideoX_Inpaint",
        "CogVideoX_T2V",
        "CosmosI2V",
        "CosmosT2V",
        "GenmoMochi",
        "HunyuanVideo",
        "HunyuanVideo15",
        "HunyuanVideo15_SR_Distilled",
        "HunyuanVideoI2V",
        "HunyuanVideoSkyreelsI2V",
        "Kandinsky5",
        "LTXAV",
        "LTXV",
        "WAN21_Camera",
        "WAN21_CausalAR_T2V",
        "WAN21_FunControl2V",
        "WAN21_HuMo",
        "WAN21_I2V",
        "WAN21_SCAIL",
        "WAN21_SCAIL2",
        "WAN21_T2V",
        "WAN21_Vace",
        "WAN22_Animate",
        "WAN22_Camera",
        "WAN22_S2V",
        "WAN22_T2V",
        "WAN22_WanDancer",
    }
)
# What each of them is, for the error message.
REFUSED: dict[str, str] = {
    "ACEStep": "it makes sound",
    "ACEStep15": "it makes sound",
    "DepthAnything3": "it finds the depth of a picture",
    "Hunyuan3Dv2": "it makes 3-D shapes of a picture",
    "Hunyuan3Dv2_1": "it makes 3-D shapes of a picture",
    "Hunyuan3Dv2mini": "it makes 3-D shapes of a picture",
    "LotusD": "it finds the depth or the normals of a picture in one step, without noise or a caption",
    "MiniMaxH3": "it makes video and sound in one latent",
    "MiniMaxMusic3": "it makes sound",
    "RT_DETR_v4": "it finds objects in a picture",
    "SAM3": "it finds objects in a picture",
    "SAM31": "it finds objects in a picture",
    "SeedVR2": "it restores a video that it is given, without a text encoder",
    "StableAudio": "it makes sound",
    "StableAudio3": "it makes sound",
    "Trellis2": "it makes 3-D shapes of a picture",
    "TripoSplat": "it makes 3-D splats of a picture",
    "WAN21_FlowRVS": "it finds an object in a video, without noise",
}
# In newer ComfyUIs than the tests' own: trained without having been tried, so the first step is checked.
UNTRIED: frozenset[str] = frozenset({"WAN_Animate2"})


def check(model: Any) -> None:
    """Raise ValueError for a model that cannot learn a picture from a caption."""
    name = class_of(model)
    if name in REFUSED:
        raise ValueError(
            f"{title_of(model)} cannot be trained: {REFUSED[name]}. Choose a model that makes pictures or videos "
            "from captions."
        )
