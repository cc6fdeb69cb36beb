"""How the reference trainers train each base: one file a base, and one line for it in the list here.

`docs/recipes.md` shows them all with their sources. A recipe is found from the model: by the class that ComfyUI gives
it, then by its network's configuration, then by the name of its file. None of them was tried on a real model.
"""

from __future__ import annotations

import re
from typing import Any

from ....models.titles import class_of, title_of
from . import (
    anima,
    auraflow,
    chroma,
    cosmos2,
    flux,
    flux2,
    flux_schnell,
    hidream,
    hunyuan_dit,
    hunyuan_image,
    hunyuan_video,
    kandinsky5,
    krea2,
    ltxv,
    lumina2,
    omnigen2,
    pixart,
    qwen_image,
    sd2,
    sd3,
    sd15,
    sdxl,
    wan,
    z_image,
)
from .recipe import Noise, Recipe

__all__ = ["AUTO", "LACKING", "RECIPES", "Noise", "Recipe", "recipe_of", "warning_of"]

AUTO = "auto"  # the recipe is found from the model

# Of two for one class, the first that fits is taken.
RECIPES: tuple[Recipe, ...] = (
    sd15.RECIPE,
    sd2.RECIPE,
    sdxl.RECIPE,
    sd3.RECIPE,
    flux.KONTEXT,
    flux.FILL,
    flux.FLUX_DEV,
    flux_schnell.RECIPE,
    flux2.KLEIN_4B,
    flux2.KLEIN_9B,
    flux2.FLUX2_DEV,
    chroma.RECIPE,
    qwen_image.EDIT,
    qwen_image.RECIPE,
    z_image.Z_IMAGE_TURBO,
    z_image.RECIPE,
    lumina2.RECIPE,
    hidream.RECIPE,
    auraflow.RECIPE,
    pixart.RECIPE,
    hunyuan_dit.RECIPE,
    hunyuan_image.RECIPE,
    omnigen2.RECIPE,
    wan.LOW,
    wan.HIGH,
    wan.RECIPE,
    hunyuan_video.RECIPE,
    ltxv.RECIPE,
    kandinsky5.IMAGE,
    kandinsky5.VIDEO,
    cosmos2.RECIPE,
    anima.RECIPE,
    krea2.KREA2_TURBO,
    krea2.RAW,
)

_NO_REFERENCE = "no reference trainer was read for it"
_OTHER_INPUTS = "it learns from more than a picture and a caption, and no reference trainer was read for it"
# Bases that are trained and have no recipe, by their class, and why.
LACKING: dict[str, str] = {
    "Boogu": _NO_REFERENCE,
    "CogVideoX_I2V": _OTHER_INPUTS,
    "CogVideoX_Inpaint": _OTHER_INPUTS,
    "CogVideoX_T2V": _NO_REFERENCE,
    "CosmosI2V": _OTHER_INPUTS,
    "CosmosI2VPredict2": _OTHER_INPUTS,
    "CosmosT2V": _NO_REFERENCE,
    "ErnieImage": _NO_REFERENCE,
    "GenmoMochi": _NO_REFERENCE,
    "HiDreamO1": _NO_REFERENCE,
    "HunyuanImage21Refiner": _OTHER_INPUTS,
    "HunyuanVideo15": _NO_REFERENCE,
    "HunyuanVideo15_SR_Distilled": _OTHER_INPUTS,
    "HunyuanVideoI2V": _OTHER_INPUTS,
    "HunyuanVideoSkyreelsI2V": _OTHER_INPUTS,
    "Ideogram4": _NO_REFERENCE,
    "JoyImage": _NO_REFERENCE,
    "Lens": _NO_REFERENCE,
    "LongCatImage": _NO_REFERENCE,
    "LTXAV": _NO_REFERENCE,
    "MageFlow": _NO_REFERENCE,
    "PiD": _NO_REFERENCE,
    "PixelDiTT2I": _NO_REFERENCE,
    "SD15_instructpix2pix": _OTHER_INPUTS,
    "SD21UnclipH": _OTHER_INPUTS,
    "SD21UnclipL": _OTHER_INPUTS,
    "SD_X4Upscaler": _OTHER_INPUTS,
    "SDXL_instructpix2pix": _OTHER_INPUTS,
    "SDXLRefiner": _NO_REFERENCE,
    "Stable_Cascade_B": _NO_REFERENCE,
    "Stable_Cascade_C": _NO_REFERENCE,
    "Stable_Zero123": _OTHER_INPUTS,
    "SV3D_p": _OTHER_INPUTS,
    "SV3D_u": _OTHER_INPUTS,
    "SVD_img2vid": _OTHER_INPUTS,
    "WAN21_Camera": _OTHER_INPUTS,
    "WAN21_CausalAR_T2V": _NO_REFERENCE,
    "WAN21_HuMo": _OTHER_INPUTS,
    "WAN21_SCAIL": _OTHER_INPUTS,
    "WAN21_SCAIL2": _OTHER_INPUTS,
    "WAN21_Vace": _OTHER_INPUTS,
    "WAN22_Animate": _OTHER_INPUTS,
    "WAN22_Camera": _OTHER_INPUTS,
    "WAN22_S2V": _OTHER_INPUTS,
    "WAN22_T2V": _NO_REFERENCE,
    "WAN22_WanDancer": _OTHER_INPUTS,
    "WAN_Animate2": _OTHER_INPUTS,
    "ZImagePixelSpace": _NO_REFERENCE,
}


def recipe_of(model: Any, file: str = "", base: str = AUTO) -> Recipe | None:
    """The recipe of a ComfyUI model (MODEL's `model`); None where its base has none.

    file: the name of the file that it was loaded from, where that is known. base: the title of a recipe, if the user
    says which it is.

    Raises:
        ValueError: a title that there is not, or that is of another base.
    """
    name = class_of(model)
    of_class = [recipe for recipe in RECIPES if name in recipe.classes]
    if base != AUTO:
        chosen = next((recipe for recipe in RECIPES if recipe.title == base), None)
        if chosen is None:
            titles = ", ".join([AUTO, *(recipe.title for recipe in RECIPES)])
            raise ValueError(f"There is no recipe for {base!r}: choose one of {titles}.")
        if chosen not in of_class:
            fitting = ", ".join([AUTO, *(recipe.title for recipe in of_class)])
            raise ValueError(f"The recipe is for {base}, but the model is {title_of(model)}: choose {fitting}.")
        return chosen
    config = getattr(model.model_config, "unet_config", {})
    return next((recipe for recipe in of_class if _fits(recipe, config, file)), None)


def _fits(recipe: Recipe, config: dict[str, Any], file: str) -> bool:
    """Whether a recipe of the right class is that of a network of this configuration, or of a file of this name."""
    signs = [] if recipe.when is None else [recipe.when(config)]
    if recipe.file:
        signs.append(re.search(recipe.file, file, re.I) is not None)
    return any(signs) or not signs


def warning_of(recipe: Recipe, file: str = "") -> str:
    """The warning that a base is distilled; empty where nothing says so."""
    name = "any" if recipe.distilled == "." else file
    return recipe.warning if recipe.distilled and re.search(recipe.distilled, name, re.I) else ""
