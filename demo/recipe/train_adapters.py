"""Train the adapters that ship with the demo, and draw its folders of pictures, with the pack's own nodes.

    $(make -s python) -m demo.recipe.train_adapters

Starts ComfyUI without a screen. Writes models/loras/deft_demo_<subject>_<method>.safetensors, and eight pictures with
their captions into pictures/<subject>_<method>/ and pictures/<subject>_base/.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from .vocabulary import COLOURS, TRAINED_NAMES, caption

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from comfy_server import ComfyServer, find_comfyui  # noqa: E402

ADAPTERS = ROOT / "demo" / "models" / "loras"
_PICTURES = ROOT / "demo" / "pictures"
# Subject, rare word, the training node's method. Rank 4, 600 steps, with prior pictures, so that other things stay what
# they were: the examples diverse_prompts and stack_two_concepts need it.
DEFT = {"method": "deft", "method.alpha": 0.0, "method.projector": "qr", "method.start": "identity"}
LORA = {"method": "lora", "method.alpha": 0.0}
TRAININGS = (("teddy_bear", "sks", DEFT), ("teddy_bear", "sks", LORA), ("duck", "zwx", DEFT))
_DRAWN = "teddy_bear"  # the subject of the folders of pictures


def priors(count: int = 24) -> list[str]:
    """Captions of objects that the base model draws, whose pictures by it are learnt along."""
    rng = random.Random(1)
    return [caption(name, rng.choice(sorted(COLOURS))) for name in rng.sample(TRAINED_NAMES, count)]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node of a workflow in API form."""
    return {"class_type": kind, "inputs": inputs}


def workflow(subject: str, token: str, method: dict[str, Any], prompts: list[str]) -> dict[str, Any]:
    """Train on a subject, save, and draw the prompts with the base model (52) and with the adapter (62)."""
    sampling = {
        "positive": ["8", 0],
        "negative": ["9", 0],
        "latent_image": ["10", 0],
        "seed": 7,
        "steps": 20,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    graph = {
        "1": node("UNETLoader", unet_name="deft_demo_denoiser.safetensors", weight_dtype="default"),
        "2": node("DEFTDemoTextEncoder"),
        "3": node("VAELoader", vae_name="deft_demo_vae.safetensors"),
        "4": node("DEFTDemoSubject", subject=subject, token=token),
        "5": node("VAEEncode", pixels=["4", 0], vae=["3", 0]),
        "6": node("CLIPTextEncode", text=["4", 1], clip=["2", 0]),
        "7": node("DEFTPrompts", prompts="\n".join(prompts), token=token),
        "8": node("CLIPTextEncode", text=["7", 0], clip=["2", 0]),
        "9": node("CLIPTextEncode", text="", clip=["2", 0]),
        "10": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "11": node("DEFTPrompts", prompts="\n".join(priors()), token=""),
        "12": node("CLIPTextEncode", text=["11", 0], clip=["2", 0]),
        "13": node("KSampler", model=["1", 0], **{**sampling, "positive": ["12", 0], "seed": 5}),
        "20": node(
            "DEFTTrainAdapter",
            model=["1", 0],
            latents=["5", 0],
            positive=["6", 0],
            prior_latents=["13", 0],
            prior_positive=["12", 0],
            steps=600,
            learning_rate=1e-3,
            batch_size=5,
            layers="all linear",
            pattern="",
            seed=1,
            precision="fp32",
            gradient_checkpointing=False,
            **method,
            **{"method.rank": 4},
        ),
        "21": node(
            "DEFTSaveAdapter",
            adapter=["20", 0],
            filename_prefix=subject,
            format="native (.safetensors)",
            place="output",
        ),
        "30": node(
            "DEFTApplyAdapter",
            model=["1", 0],
            adapter=["20", 0],
            strength_model=1.0,
            strength_clip=1.0,
            removal=1.0,
            injection=1.0,
            stacking="sequential",
        ),
    }
    for line, model in ((50, "1"), (60, "30")):
        graph[str(line)] = node("KSampler", model=[model, 0], **sampling)
        graph[str(line + 1)] = node("VAEDecode", samples=[str(line), 0], vae=["3", 0])
        graph[str(line + 2)] = node("SaveImage", images=[str(line + 1), 0], filename_prefix=f"{subject}_{line}")
    return graph


def halved(source: Path, target: Path) -> None:
    """Copy an adapter with its matrices in float16, half as large."""
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    save_file({name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}, target, header)


def write_pictures(server: ComfyServer, shown: list[dict[str, str]], captions: list[str], folder: Path) -> None:
    """The pictures of a Save Image node, without the workflow in them, and their captions."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, (item, text) in enumerate(zip(shown, captions, strict=True)):
        with Image.open(server.base / "output" / item["subfolder"] / item["filename"]) as picture:
            picture.convert("RGB").save(folder / f"{index}.png", optimize=True)
        (folder / f"{index}.txt").write_text(text + "\n")


def main() -> None:
    """Train, save, draw."""
    ADAPTERS.mkdir(parents=True, exist_ok=True)
    colours = random.Random(0).sample(sorted(COLOURS), 8)
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        for subject, token, method in TRAININGS:
            name = subject.replace("_", " ")
            captions = [caption(name, colour) for colour in colours]
            prompts = [caption(f"{token} {name}", colour) for colour in colours]
            outputs = server.run(workflow(subject, token, method, prompts)).outputs
            saved = outputs["21"]["files"][0]
            target = ADAPTERS / f"deft_demo_{subject}_{method['method']}.safetensors"
            halved(Path(base) / "output" / saved["subfolder"] / saved["filename"], target)
            print(f"[adapters] wrote {target.relative_to(ROOT)}, {target.stat().st_size / 1024:.0f} kB")
            if subject == _DRAWN:
                write_pictures(server, outputs["52"]["images"], captions, _PICTURES / f"{subject}_base")
                write_pictures(server, outputs["62"]["images"], captions, _PICTURES / f"{subject}_{method['method']}")


if __name__ == "__main__":
    main()
