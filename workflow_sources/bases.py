"""The bases that the examples are made for: their files with where these come from, their loaders, how they draw.

The settings of the training are those of the base's recipe (docs/recipes.md); none was tried on the models here.
Loaders and sampling are those of ComfyUI's own blueprints of the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .packing import Packing
from .prompt import APPLY, TOKEN, Connection, PromptBuilder

_HUB = "https://huggingface.co"
_FLUX_TEXT = f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main"
_OMNIGEN2 = f"{_HUB}/Comfy-Org/Omnigen2_ComfyUI_repackaged/resolve/main/split_files"
_QWEN_IMAGE = f"{_HUB}/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files"
_Z_IMAGE = f"{_HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files"
# By the file's name: the folder below models, and the address that the page offers for its download.
BASE_FILES: Mapping[str, tuple[str, str]] = {
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "checkpoints",
        f"{_HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    ),
    "sd_xl_base_1.0.safetensors": (
        "checkpoints",
        f"{_HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    ),
    "flux1-dev.safetensors": (
        "diffusion_models",
        f"{_HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors",
    ),
    "clip_l.safetensors": ("text_encoders", f"{_FLUX_TEXT}/clip_l.safetensors"),
    "t5xxl_fp16.safetensors": ("text_encoders", f"{_FLUX_TEXT}/t5xxl_fp16.safetensors"),
    "ae.safetensors": (
        "vae",
        f"{_HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
    ),
    "flux-2-klein-base-4b.safetensors": (
        "diffusion_models",
        f"{_HUB}/Comfy-Org/flux2-klein/resolve/main/split_files/diffusion_models/flux-2-klein-base-4b.safetensors",
    ),
    "flux2-vae.safetensors": ("vae", f"{_HUB}/Comfy-Org/ERNIE-Image/resolve/main/vae/flux2-vae.safetensors"),
    "qwen_3_4b.safetensors": ("text_encoders", f"{_Z_IMAGE}/text_encoders/qwen_3_4b.safetensors"),
    "z_image_bf16.safetensors": (
        "diffusion_models",
        f"{_HUB}/Comfy-Org/z_image/resolve/main/split_files/diffusion_models/z_image_bf16.safetensors",
    ),
    "qwen_image_fp8_e4m3fn.safetensors": (
        "diffusion_models",
        f"{_QWEN_IMAGE}/diffusion_models/qwen_image_fp8_e4m3fn.safetensors",
    ),
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": (
        "text_encoders",
        f"{_HUB}/Comfy-Org/HunyuanVideo_1.5_repackaged/resolve/main/split_files/text_encoders/"
        "qwen_2.5_vl_7b_fp8_scaled.safetensors",
    ),
    "qwen_image_vae.safetensors": ("vae", f"{_QWEN_IMAGE}/vae/qwen_image_vae.safetensors"),
    "omnigen2_fp16.safetensors": ("diffusion_models", f"{_OMNIGEN2}/diffusion_models/omnigen2_fp16.safetensors"),
    "qwen_2.5_vl_fp16.safetensors": ("text_encoders", f"{_OMNIGEN2}/text_encoders/qwen_2.5_vl_fp16.safetensors"),
}
MODEL, CLIP, VAE = 1, 2, 3  # ids of the loaders; a checkpoint's is the first alone
DRAW, ENCODE, EMPTY, SIZE, SAMPLE, DECODE, EXTRA = 40, 41, 42, 43, 44, 45, 46  # of the nodes that draw


@dataclass(frozen=True)
class BaseNodes:
    """A base: its loaders as (node class, inputs), one for a checkpoint, else of MODEL, CLIP and VAE; its settings.

    size, rank, steps, learning_rate, layers, precision: of the training; size 0 is the base's own. side, latent: of the
    pictures, and the node that makes an empty latent. sampler: of KSampler. shift: of ModelSamplingAuraFlow, 0 without.
    zero: the negative is the prompt zeroed, for a base without a negative one. recipe: whether Training Recipe has one.
    """

    title: str
    loaders: tuple[tuple[str, Mapping[str, Any]], ...]
    size: int = 0
    rank: int = 16
    steps: int = 1000
    learning_rate: float = 1e-4
    layers: str = "attention and feed-forward"
    batch_size: int = 1
    precision: str = "auto"
    checkpointing: bool = True
    recipe: bool = True
    side: int = 1024
    latent: str = "EmptySD3LatentImage"
    sampler: Mapping[str, Any] = field(default_factory=dict)
    shift: float = 0.0
    zero: bool = False

    @property
    def sockets(self) -> tuple[Connection, Connection, Connection]:
        """MODEL, CLIP and VAE."""
        if len(self.loaders) == 1:
            return [str(MODEL), 0], [str(MODEL), 1], [str(MODEL), 2]
        return [str(MODEL), 0], [str(CLIP), 0], [str(VAE), 0]

    @property
    def loader_lines(self) -> list[list[int]]:
        """The loaders below each other, for a layout."""
        return [[number] for number in range(1, len(self.loaders) + 1)]


def _checkpoint(name: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return (("CheckpointLoaderSimple", {"ckpt_name": name}),)


def _parts(model: str, clip: str, kind: str, vae: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return (
        ("UNETLoader", {"unet_name": model, "weight_dtype": "default"}),
        ("CLIPLoader", {"clip_name": clip, "type": kind, "device": "default"}),
        ("VAELoader", {"vae_name": vae}),
    )


def _sampler(steps: int, cfg: float, sampler: str = "euler", scheduler: str = "simple") -> dict[str, Any]:
    return {"seed": 7, "steps": steps, "cfg": cfg, "sampler_name": sampler, "scheduler": scheduler, "denoise": 1.0}


BASES: Mapping[str, BaseNodes] = {
    "demo": BaseNodes(
        "the demo's model",
        (
            ("UNETLoader", {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"}),
            ("DEFTDemoTextEncoder", {}),
            ("VAELoader", {"vae_name": "deft_demo_vae.safetensors"}),
        ),
        size=64,
        rank=4,
        steps=400,
        learning_rate=1e-3,
        layers="all linear",
        batch_size=5,
        precision="fp32",
        checkpointing=False,
        recipe=False,
        side=64,
        sampler=_sampler(20, 3.0),
    ),
    "SD 1.5": BaseNodes(
        "SD 1.5",
        _checkpoint("v1-5-pruned-emaonly-fp16.safetensors"),
        steps=800,
        side=512,
        latent="EmptyLatentImage",
        sampler=_sampler(25, 7.0, "dpmpp_2m", "karras"),
    ),
    "SDXL": BaseNodes(
        "SDXL",
        _checkpoint("sd_xl_base_1.0.safetensors"),
        latent="EmptyLatentImage",
        sampler=_sampler(25, 7.0, "dpmpp_2m", "karras"),
    ),
    "Flux.1 dev": BaseNodes(
        "Flux.1 dev",
        (
            ("UNETLoader", {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}),
            (
                "DualCLIPLoader",
                {
                    "clip_name1": "clip_l.safetensors",
                    "clip_name2": "t5xxl_fp16.safetensors",
                    "type": "flux",
                    "device": "default",
                },
            ),
            ("VAELoader", {"vae_name": "ae.safetensors"}),
        ),
        size=512,
        sampler=_sampler(20, 1.0),
        zero=True,
    ),
    "Flux.2 klein": BaseNodes(
        "Flux.2 klein base 4B",
        _parts("flux-2-klein-base-4b.safetensors", "qwen_3_4b.safetensors", "flux2", "flux2-vae.safetensors"),
        rank=32,
        latent="EmptyFlux2LatentImage",
        sampler={"seed": 7, "steps": 20, "cfg": 5.0, "sampler_name": "euler"},
    ),
    "Z-Image": BaseNodes(
        "Z-Image",
        _parts("z_image_bf16.safetensors", "qwen_3_4b.safetensors", "lumina2", "ae.safetensors"),
        rank=32,
        steps=1500,
        sampler=_sampler(25, 4.0, "res_multistep"),
        shift=3.0,
    ),
    "Qwen-Image": BaseNodes(
        "Qwen-Image",
        _parts(
            "qwen_image_fp8_e4m3fn.safetensors",
            "qwen_2.5_vl_7b_fp8_scaled.safetensors",
            "qwen_image",
            "qwen_image_vae.safetensors",
        ),
        steps=1500,
        side=1328,
        sampler=_sampler(20, 4.0),
        shift=3.1,
    ),
}
TITLES = ("Model", "Text encoder", "Autoencoder")
# As the base's recipe has it; the same numbers stand at the training node.
_RECIPE: Mapping[str, Any] = {
    "what": "subject",
    "how": "usual",
    "base": "auto",
    "steps": 0,
    "learning_rate": 0.0,
    "rank": 0,
    "layers": "auto",
}


def load(it: PromptBuilder, base: BaseNodes) -> None:
    """Add a base's loaders."""
    for number, (kind, inputs) in enumerate(base.loaders, 1):
        title = f"Checkpoint of {base.title}" if len(base.loaders) == 1 else TITLES[number - 1]
        it.add(number, kind, title, inputs)


def train(it: PromptBuilder, base: BaseNodes) -> Connection:
    """Add pictures (4), training (20), saving (21) and the base's recipe (22); the adapter."""
    model, clip, vae = base.sockets
    pictures = it.add(
        4,
        "DEFTPrepareTrainingPictures",
        "Photos of my subject",
        {
            "folder": "demo/teddy_bear",
            "vae": vae,
            "clip": clip,
            "model": model,
            "default_caption": "a photo of [trigger]",
            "trigger_word": TOKEN,
            "size": base.size,
            "crop": "middle",
            "flips": False,
        },
    )
    settings = {"settings": it.add(22, "DEFTTrainingRecipe", "Recipe of the base", _RECIPE)} if base.recipe else {}
    adapter = it.add(
        20,
        "DEFTTrainAdapter",
        "Train a LoRA",
        {
            "model": model,
            "latents": pictures,
            "positive": ["4", 1],
            "captions": ["4", 2],
            **settings,
            "method": "lora",
            "method.rank": base.rank,
            "method.alpha": 0.0,
            "steps": base.steps,
            "learning_rate": base.learning_rate,
            "batch_size": base.batch_size,
            "layers": base.layers,
            "pattern": "",
            "seed": 1,
            "precision": base.precision,
            "gradient_checkpointing": base.checkpointing,
        },
    )
    it.add(
        21,
        "DEFTSaveAdapter",
        "Keep it in models/loras",
        {
            "adapter": adapter,
            "filename_prefix": "my_subject",
            "format": "native (.safetensors)",
            "place": "models/loras",
            "model": model,
        },
    )
    return adapter


def apply(it: PromptBuilder, base: BaseNodes, adapter: Connection) -> Connection:
    """Add what puts an adapter on the model (30)."""
    model = base.sockets[0]
    return it.add(30, "DEFTApplyAdapter", "Put it on the model", {"model": model, "adapter": adapter, **APPLY})


def draw(it: PromptBuilder, base: BaseNodes, model: Connection, words: str, folder: str) -> Packing:
    """Add what draws a picture, to be one node on top (40), and what saves it (70)."""
    _, clip, vae = base.sockets
    positive = it.add(ENCODE, "CLIPTextEncode", "Prompt", {"text": words, "clip": clip})
    if base.zero:
        negative = it.add(EMPTY, "ConditioningZeroOut", "No negative prompt", {"conditioning": positive})
    else:
        negative = it.add(EMPTY, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": clip})
    size = {"width": base.side, "height": base.side, "batch_size": 1}
    latent = it.add(SIZE, base.latent, "Size of the picture", size)
    takes_model = SAMPLE
    steps, cfg = (SAMPLE, "steps"), (SAMPLE, "cfg")
    nodes = [ENCODE, EMPTY, SIZE, SAMPLE, DECODE]
    if base.latent == "EmptyFlux2LatentImage":
        values = base.sampler
        noise = it.add(EXTRA, "RandomNoise", "Noise", {"noise_seed": values["seed"]})
        guider = it.add(
            EXTRA + 1,
            "CFGGuider",
            "Guidance",
            {"model": model, "positive": positive, "negative": negative, "cfg": values["cfg"]},
        )
        sampler = it.add(EXTRA + 2, "KSamplerSelect", "Sampler", {"sampler_name": values["sampler_name"]})
        sigmas = it.add(
            EXTRA + 3,
            "Flux2Scheduler",
            "Noise levels",
            {"steps": values["steps"], "width": base.side, "height": base.side},
        )
        samples = it.add(
            SAMPLE,
            "SamplerCustomAdvanced",
            "Draw",
            {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent},
        )
        nodes += [EXTRA + number for number in range(4)]
        takes_model, cfg, steps = EXTRA + 1, (EXTRA + 1, "cfg"), (EXTRA + 3, "steps")
    else:
        if base.shift:
            model = it.add(EXTRA, "ModelSamplingAuraFlow", "Shift of the noise", {"model": model, "shift": base.shift})
            nodes.append(EXTRA)
            takes_model = EXTRA
        samples = it.add(
            SAMPLE,
            "KSampler",
            "Draw",
            {"model": model, "positive": positive, "negative": negative, "latent_image": latent, **base.sampler},
        )
    image = it.add(DECODE, "VAEDecode", "Decode", {"samples": samples, "vae": vae})
    it.add(70, "SaveImage", "The picture", {"images": image, "filename_prefix": f"{folder}/picture"})
    return Packing(
        node=DRAW,
        title="Draw a picture",
        nodes=nodes,
        inputs={
            "model": [(takes_model, "model")],
            "clip": [(ENCODE, "clip")] if base.zero else [(ENCODE, "clip"), (EMPTY, "clip")],
            "vae": [(DECODE, "vae")],
        },
        promoted={"prompt": (ENCODE, "text"), "steps": steps, "cfg": cfg},
        outputs={"image": (DECODE, 0)},
        texts=("prompt",),
    )
