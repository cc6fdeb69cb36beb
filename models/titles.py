"""The names by which people know a base, for messages and reports. Files keep the names of ComfyUI's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By the names of ComfyUI's configurations (comfy/supported_models.py).
_CONFIGURATIONS: Mapping[str, str] = {
    "KOALA_1B": "KOALA 1B (SDXL)",
    "KOALA_700M": "KOALA 700M (SDXL)",
    "LotusD": "Lotus",
    "SD15": "SD 1.5",
    "SD15_instructpix2pix": "InstructPix2Pix (SD 1.5)",
    "SD20": "SD 2",
    "SD21UnclipH": "SD 2.1 unCLIP",
    "SD21UnclipL": "SD 2.1 unCLIP",
    "SD_X4Upscaler": "SD x4 Upscaler",
    "SDXL": "SDXL",
    "SDXL_instructpix2pix": "InstructPix2Pix (SDXL)",
    "SDXLRefiner": "SDXL Refiner",
    "Segmind_Vega": "Segmind Vega (SDXL)",
    "SSD1B": "SSD-1B (SDXL)",
    "Stable_Cascade_B": "Stable Cascade, stage B",
    "Stable_Cascade_C": "Stable Cascade, stage C",
    "Stable_Zero123": "Stable Zero123",
    "SV3D_p": "Stable Video 3D",
    "SV3D_u": "Stable Video 3D",
    "SVD_img2vid": "Stable Video Diffusion",
    "Anima": "Anima",
    "AuraFlow": "AuraFlow",
    "Boogu": "Boogu",
    "Chroma": "Chroma",
    "ChromaRadiance": "Chroma Radiance",
    "CosmosI2VPredict2": "Cosmos Predict2",
    "CosmosT2IPredict2": "Cosmos Predict2",
    "ErnieImage": "ERNIE-Image",
    "Flux": "Flux.1",
    "Flux2": "Flux.2",
    "FluxInpaint": "Flux.1 Fill",
    "FluxSchnell": "Flux.1 schnell",
    "HiDream": "HiDream",
    "HiDreamO1": "HiDream-O1",
    "HunyuanDiT": "HunyuanDiT",
    "HunyuanDiT1": "HunyuanDiT",
    "HunyuanImage21": "HunyuanImage 2.1",
    "HunyuanImage21Refiner": "HunyuanImage 2.1 Refiner",
    "Ideogram4": "Ideogram 4",
    "JoyImage": "JoyImage",
    "Kandinsky5Image": "Kandinsky 5 Image",
    "Krea2": "Krea 2",
    "Lens": "Lens",
    "LongCatImage": "LongCat-Image",
    "Lumina2": "Lumina 2",
    "MageFlow": "MageFlow",
    "Omnigen2": "OmniGen2",
    "PiD": "PiD",
    "PixArtAlpha": "PixArt-alpha",
    "PixArtSigma": "PixArt-Sigma",
    "PixelDiTT2I": "PixelDiT",
    "QwenImage": "Qwen-Image",
    "SD3": "SD3",
    "ZImage": "Z-Image",
    "ZImagePixelSpace": "Z-Image (pixel space)",
    "CogVideoX_I2V": "CogVideoX",
    "CogVideoX_Inpaint": "CogVideoX",
    "CogVideoX_T2V": "CogVideoX",
    "CosmosI2V": "Cosmos",
    "CosmosT2V": "Cosmos",
    "GenmoMochi": "Mochi",
    "HunyuanVideo": "HunyuanVideo",
    "HunyuanVideo15": "HunyuanVideo 1.5",
    "HunyuanVideo15_SR_Distilled": "HunyuanVideo 1.5 (super resolution)",
    "HunyuanVideoI2V": "HunyuanVideo (image to video)",
    "HunyuanVideoSkyreelsI2V": "SkyReels (HunyuanVideo)",
    "Kandinsky5": "Kandinsky 5",
    "LTXAV": "LTX-2",
    "LTXV": "LTX-Video",
    "WAN21_Camera": "Wan 2.1 (camera control)",
    "WAN21_CausalAR_T2V": "Wan 2.1 (causal)",
    "WAN21_FlowRVS": "Wan 2.1 (FlowRVS)",
    "WAN21_FunControl2V": "Wan 2.1 (Fun Control)",
    "WAN21_HuMo": "HuMo (Wan 2.1)",
    "WAN21_I2V": "Wan (image to video)",
    "WAN21_SCAIL": "SCAIL (Wan 2.1)",
    "WAN21_SCAIL2": "SCAIL-2 (Wan 2.1)",
    "WAN21_T2V": "Wan",  # 2.2's 14B models are loaded as this one
    "WAN21_Vace": "Wan 2.1 VACE",
    "WAN22_Animate": "Wan 2.2 Animate",
    "WAN22_Camera": "Wan 2.2 (camera control)",
    "WAN22_S2V": "Wan 2.2 S2V",
    "WAN22_T2V": "Wan 2.2 5B",
    "WAN_Animate2": "Wan Animate 2",
    "WAN22_WanDancer": "WanDancer (Wan 2.2)",
    "ACEStep": "ACE-Step",
    "ACEStep15": "ACE-Step 1.5",
    "DepthAnything3": "Depth Anything 3",
    "Hunyuan3Dv2": "Hunyuan3D 2",
    "Hunyuan3Dv2_1": "Hunyuan3D 2.1",
    "Hunyuan3Dv2mini": "Hunyuan3D 2 mini",
    "MiniMaxH3": "MiniMax H3",
    "MiniMaxMusic3": "MiniMax Music 3",
    "RT_DETR_v4": "RT-DETR v4",
    "SAM3": "SAM 3",
    "SAM31": "SAM 3.1",
    "SeedVR2": "SeedVR2",
    "StableAudio": "Stable Audio",
    "StableAudio3": "Stable Audio 3",
    "Trellis2": "TRELLIS.2",
    "TripoSplat": "TripoSplat",
}
# By the names of ComfyUI's model classes (comfy/model_base.py), which adapter files record: those that several bases
# have in common, or that are called otherwise.
_CLASSES: Mapping[str, str] = {
    "BaseModel": "SD 1.5 or SD 2",
    "SD21UNCLIP": "SD 2.1 unCLIP",
    "StableCascade_B": "Stable Cascade, stage B",
    "StableCascade_C": "Stable Cascade, stage C",
    "PixArt": "PixArt",
    "CosmosVideo": "Cosmos",
    "CosmosPredict2": "Cosmos Predict2",
    "Lumina2": "Lumina 2 or Z-Image",
    "WAN21": "Wan",
    "WAN22": "Wan 2.2 5B",
    "CogVideoX": "CogVideoX",
}
# By kohya's `ss_base_model_version`: the bases of one class apart.
_VERSIONS: Mapping[str, str] = {
    "sd_v1": "SD 1.5",
    "sd_v1_v": "SD 1.5",
    "sd_v2": "SD 2",
    "sd_v2_v": "SD 2",
    "lumina2": "Lumina 2",
    "z_image": "Z-Image",
}


def class_of(model: Any) -> str:
    """The name of the class in comfy.supported_models that a ComfyUI model (a BaseModel) is of, or comes from."""
    classes = type(model.model_config).__mro__
    core = (cls for cls in classes if cls.__module__ == "comfy.supported_models")
    return next(core, classes[0]).__name__


def title_of(model: Any) -> str:
    """What people call a ComfyUI model (MODEL's `model`); the class's name for one not listed, or a text encoder."""
    if not hasattr(model, "model_config"):
        return type(model).__name__
    name = class_of(model)
    return _CONFIGURATIONS.get(name, name)


def recorded_title(metadata: Mapping[str, str]) -> str:
    """What people call the base that an adapter's header records by the name of ComfyUI's class; "" without one."""
    name = metadata.get("base_model", "")
    version = _VERSIONS.get(metadata.get("ss_base_model_version", ""))
    return version if version and name in _CLASSES else _CLASSES.get(name) or _CONFIGURATIONS.get(name, name)
