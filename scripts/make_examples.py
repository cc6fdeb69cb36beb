"""Write the examples of the demo's model into example_workflows/api.

    $(make -s python) scripts/make_examples.py && $(make -s python) scripts/make_workflows.py

Those named in EXAMPLES; the others in that folder are written by make_tables.py and make_plans.py, or by hand. What
their graphs look like, and what their notes say, is in layouts/.

A node's id says what it is: below 20 what all share (1 to 3 the model, 4 to 6 the subject's pictures, 7 to 10 prompts
and size, 11 the scorers), 20 and up trainings, 30 applying, 40 sampling, 50 decoding, 60 scoring, 70 and up what is
shown. In examples with several subjects or sections the hundreds count these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from make_tables import API, ROOT, SETTINGS, Link, Prompt

TOKEN = "sks"
APPLY = {"strength_model": 1.0, "strength_clip": 1.0, "removal": 1.0, "injection": 1.0, "stacking": "sequential"}
SAMPLING = {"seed": 7, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
METHODS: dict[str, dict[str, Any]] = {
    "DEFT": {
        "method": "deft",
        "method.rank": 4,
        "method.alpha": 0.0,
        "method.projector": "qr",
        "method.start": "identity",
    },
    "PaRa": {"method": "para", "method.rank": 4, "method.rank_cap": 0.0},
    "LoRA": {"method": "lora", "method.rank": 4, "method.alpha": 0.0},
}
BACKGROUNDS = ("a red", "a blue", "a green", "a teal", "a white", "a purple", "an orange", "a pink")
DEFT_FILE, LORA_FILE = "deft_demo_teddy_bear_deft.safetensors", "deft_demo_teddy_bear_lora.safetensors"
SECOND_FILE, SECOND, SECOND_TOKEN = "deft_demo_duck_deft.safetensors", "duck", "zwx"

MODEL, CLIP, VAE, PHOTOS, LATENTS, CAPTIONS = (([str(node), 0]) for node in (1, 2, 3, 4, 5, 6))
PROMPTS, ENCODED, EMPTY, SIZE, SCORER = (([str(node), 0]) for node in (7, 8, 9, 10, 11))
TEXT: Link = ["7", 1]


def on_backgrounds(thing: str, count: int = 8) -> list[str]:
    """Prompts of one thing on colours."""
    return [f"{thing} on {background} background" for background in BACKGROUNDS[:count]]


class Example(Prompt):
    """A workflow on the demo's model. name: of its file, and the folder of all that it writes."""

    def __init__(self, name: str) -> None:
        """The model."""
        super().__init__()
        self.name = name
        self.add(
            1, "UNETLoader", "Demo model", {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"}
        )
        self.add(2, "DEFTDemoTextEncoder", "Demo text encoder", {})
        self.add(3, "VAELoader", "Demo autoencoder", {"vae_name": "deft_demo_vae.safetensors"})

    def subject(self, subject: str = "teddy_bear", first: int = 4, of: str = "") -> Link:
        """A subject's pictures with captions, encoded for the training; the pictures. of: more for the titles."""
        photos = self.add(
            first, "DEFTDemoSubject", f"Five pictures{of or ' of the subject'}", {"subject": subject, "token": TOKEN}
        )
        self.add(first + 1, "VAEEncode", f"Encode the pictures{of}", {"pixels": photos, "vae": VAE})
        self.add(first + 2, "CLIPTextEncode", f"Encode the captions{of}", {"text": [photos[0], 1], "clip": CLIP})
        return photos

    def photos(self, subject: str = "teddy_bear", node: int = 4, title: str = "Pictures of the subject") -> Link:
        """A subject's pictures, to look at and to compare with."""
        return self.add(node, "DEFTDemoSubject", title, {"subject": subject, "token": TOKEN})

    def prompts(self, lines: list[str], node: int = 7, title: str = "Prompts to draw", token: str = TOKEN) -> Link:
        """Prompts and their encoding, which is the next node; the encoding."""
        prompts = self.add(node, "DEFTPrompts", title, {"prompts": "\n".join(lines), "token": token})
        return self.add(
            node + 1,
            "CLIPTextEncode",
            f"Encode: {title.lower()}" if node != 7 else "Encode the prompts",
            {"text": prompts, "clip": CLIP},
        )

    def sampling(self) -> None:
        """What sampling needs beside model and prompts."""
        self.add(9, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": CLIP})
        self.add(10, "EmptySD3LatentImage", "64 x 64", {"width": 64, "height": 64, "batch_size": 1})

    def scorer(self) -> None:
        """The demo's scorers."""
        self.add(
            11,
            "DEFTLoadScorer",
            "Demo scorers",
            {
                "protocol": "demo",
                "clip_weights": "auto",
                "dino_weights": "auto",
                "dinov2_weights": "auto",
            },
        )

    def train(self, node: int, label: str, latents: Link = LATENTS, captions: Link = CAPTIONS, **more: Any) -> Link:
        """A training of DEFT, PaRa or LoRA, the first word of the label."""
        return self.add(
            node,
            "DEFTTrainAdapter",
            f"Train {label}",
            {
                "model": MODEL,
                "latents": latents,
                "positive": captions,
                "steps": 400,
                "learning_rate": 0.001,
                "batch_size": 5,
                "layers": "all linear",
                "pattern": "",
                "seed": 1,
                "precision": "fp32",
                "gradient_checkpointing": False,
                **METHODS[label.split()[0]],
                **more,
            },
        )

    def apply(self, node: int, label: str, adapter: Link, model: Link = MODEL, **more: Any) -> Link:
        """An adapter on the model."""
        return self.add(
            node, "DEFTApplyAdapter", f"Apply {label}", {"model": model, "adapter": adapter, **APPLY, **more}
        )

    def draw(
        self, line: int, label: str, model: Link, positive: Link = ENCODED, first: int = 40, second: int = 50
    ) -> Link:
        """Sample and decode; the pictures. first, second: the nodes' ids at line 0."""
        latent = self.add(
            first + line,
            "KSampler",
            f"Sample {label}",
            {
                "model": model,
                "positive": positive,
                "negative": EMPTY,
                "latent_image": SIZE,
                **SAMPLING,
            },
        )
        return self.add(second + line, "VAEDecode", f"Decode {label}", {"samples": latent, "vae": VAE})

    def score(
        self,
        line: int,
        label: str,
        images: Link,
        adapter: Link | None = None,
        references: Link = PHOTOS,
        text: Link = TEXT,
        subject: str = "teddy bear",
        first: int = 60,
    ) -> Link:
        """The scores of a row. first: the id at line 0. What is behind a comma of the label is in the title alone."""
        return self.add(
            first + line,
            "DEFTScoreImages",
            f"Score {label}",
            {
                "scorer": SCORER,
                "images": images,
                "references": references,
                "text": text,
                "label": label.partition(",")[0],
                "subject": subject,
                **({"adapter": adapter} if adapter else {}),
            },
        )

    def grid(
        self,
        rows: Mapping[str, Link],
        scores: list[Link] = [],  # noqa: B006
        subject: Link | None = PHOTOS,
        columns: Link = TEXT,
        node: int = 70,
        title: str = "Side by side",
        file: str = "grid",
        **more: Any,
    ) -> Link:
        """The rows as a labelled grid, which is saved by the node after the next."""
        image = self.add(
            node,
            "DEFTComparisonGrid",
            title,
            {
                "row_labels": "\n".join(rows),
                "column_labels": columns,
                **({"subject": subject} if subject else {}),
                **{f"images.images{place}": link for place, link in enumerate(rows.values())},
                **{f"scores.scores{place}": link for place, link in enumerate(scores)},
                **more,
            },
        )
        self.save(node + 2, image, f"Save: {title.lower()}" if node != 70 else "Save the grid", file)
        return image

    def save(self, node: int, image: Link, title: str, file: str) -> None:
        """A picture to the output folder."""
        self.add(node, "SaveImage", title, {"images": image, "filename_prefix": f"{self.name}/{file}"})

    def table(self, scores: list[Link], title: str, node: int = 71, **more: Any) -> None:
        """The score table."""
        self.add(
            node,
            "DEFTScoreTable",
            "Scores",
            {
                "title": title,
                **{f"scores.scores{place}": link for place, link in enumerate(scores)},
                "filename_prefix": f"{self.name}/table",
                **more,
            },
        )

    def plot(self, scores: list[Link], title: str, node: int = 73) -> None:
        """Likeness against prompt following."""
        self.add(
            node,
            "DEFTFidelityPlot",
            "Likeness against prompt following",
            {
                "x": "CLIP-T",
                "y": "DINO",
                "title": title,
                "filename_prefix": f"{self.name}/plot",
                **{f"scores.scores{place}": link for place, link in enumerate(scores)},
            },
        )

    def show_text(self, node: int, title: str, source: Link) -> None:
        """A text on the canvas."""
        self.add(node, "PreviewAny", title, {"source": source})


def load_and_apply(it: Example) -> None:
    """The adapters that come with the pack: without one, DEFT, LoRA."""
    it.photos()
    it.prompts(on_backgrounds("a sks teddy bear", 5))
    it.sampling()
    rows = {"Base": it.draw(0, "the base model", MODEL)}
    for line, (label, file) in enumerate((("DEFT", DEFT_FILE), ("LoRA", LORA_FILE)), 1):
        model = it.add(
            20 + line,
            "DEFTAdapterLoader",
            f"Load {label}",
            {"model": MODEL, "file": file, "strength_model": 1.0, "strength_clip": 1.0, "projector": "auto"},
        )
        it.show_text(30 + line, f"What was applied: {label}", [model[0], 2])
        rows[label] = it.draw(line, f"with {label}", model)
    it.grid(rows)


def compare_methods(it: Example) -> None:
    """The layout of the paper's figure 1. The ids are used by tests."""
    it.subject()
    it.prompts(on_backgrounds("a sks teddy bear"))
    it.sampling()
    it.scorer()
    applied, trained = {}, {}
    for line, method in enumerate(METHODS):
        trained[method] = it.train(20 + line, f"{method} r4")
        applied[method] = it.apply(30 + line, f"{method} r4", trained[method])
    bare = it.add(12, "CLIPTextEncode", "Prompts without the rare word, encoded", {"text": ["13", 0], "clip": CLIP})
    it.add(
        13,
        "DEFTPrompts",
        "Prompts without the rare word",
        {"prompts": "\n".join(on_backgrounds("a teddy bear")), "token": ""},
    )
    rows, scores = {}, []
    for line, label, method, positive in (
        (0, "Base", "", ENCODED),
        (3, "LoRA r4", "LoRA", ENCODED),
        (4, "PaRa r4 + Uncond.", "PaRa", bare),
        (2, "PaRa r4", "PaRa", ENCODED),
        (1, "DEFT r4", "DEFT", ENCODED),
    ):
        rows[label] = it.draw(line, label, applied.get(method, MODEL), positive)
        scores.append(it.score(line, label, rows[label], trained.get(method)))
    it.grid(rows, scores)
    it.table(scores, "Demo: teddy bear")
    it.plot(scores, "Demo: teddy bear")


SECTIONS = {
    "Abstract": (
        "a sks teddy bear on a white background",
        "a spiral shell on a purple background",
        "a gem stone on an orange background",
        "a star on a blue background",
    ),
    "Fantasy": (
        "a sks teddy bear on a purple background",
        "a dragon on a red background",
        "a unicorn face on a pink background",
        "a ghost on a blue background",
    ),
    "Futuristic": (
        "a sks teddy bear on a black background",
        "a rocket on a blue background",
        "a flying saucer on a purple background",
        "an alien on a green background",
    ),
    "Historical": (
        "a sks teddy bear on a brown background",
        "a castle on a blue background",
        "a moai on a yellow background",
        "a steam locomotive on a grey background",
    ),
}


def diverse_prompts(it: Example) -> None:
    """The layout of figure 2: four sections of prompts, with and without DEFT."""
    it.add(12, "PreviewImage", "The subject", {"images": it.photos()})
    it.sampling()
    deft = it.add(
        21,
        "DEFTAdapterLoader",
        "Load DEFT",
        {
            "model": MODEL,
            "file": DEFT_FILE,
            "strength_model": 1.0,
            "strength_clip": 1.0,
            "projector": "auto",
        },
    )
    joined: Link = []
    for number, (section, lines) in enumerate(SECTIONS.items()):
        node = 100 * (number + 1)
        encoded = it.prompts(lines, node, section)
        rows = {}
        for line, (label, model) in enumerate((("Base", MODEL), ("DEFT", deft))):
            rows[f"{section}: {label}"] = it.draw(
                line, f"{section.lower()}, {label}", model, encoded, node + 10, node + 20
            )
        grid = it.add(
            node + 4,
            "DEFTComparisonGrid",
            f"{section}: side by side",
            {
                "row_labels": "\n".join(rows),
                "column_labels": [str(node), 1],
                **{f"images.images{place}": link for place, link in enumerate(rows.values())},
            },
        )
        if joined:
            grid = it.add(
                70 + number,
                "ImageStitch",
                f"{section} below",
                {
                    "image1": joined,
                    "image2": grid,
                    "direction": "down",
                    "match_image_size": True,
                    "spacing_width": 8,
                    "spacing_color": "white",
                },
            )
        joined = grid
    it.save(80, joined, "Save all sections", "sections")


def deft_against_lora(it: Example) -> None:
    """The layout of figure 3 and of table 2: two subjects, DEFT and LoRA, a score under each picture."""
    it.sampling()
    it.scorer()
    scores = []
    for number, subject in enumerate(("teddy_bear", "duck")):
        first, name = 100 * (number + 1), subject.replace("_", " ")
        photos = it.subject(subject, first, f" of the {name}")
        it.add(
            first + 3,
            "DEFTPrompts",
            f"Prompts of the {name}",
            {"prompts": "\n".join(on_backgrounds(f"a {TOKEN} {name}", 6)), "token": TOKEN},
        )
        encoded = it.add(
            first + 4,
            "CLIPTextEncode",
            f"Encode the prompts of the {name}",
            {"text": [str(first + 3), 0], "clip": CLIP},
        )
        text: Link = [str(first + 3), 1]
        rows, here = {}, []
        for line, method in enumerate(("DEFT", "LoRA")):
            place, label = first + 10 * (line + 1), f"{method} r4"
            adapter = it.train(place, f"{label}, {name}", [str(first + 1), 0], [str(first + 2), 0])
            model = it.apply(place + 1, f"{label}, {name}", adapter)
            rows[label] = it.draw(place, f"{label}, {name}", model, encoded, 2, 3)
            here.append(it.score(place, f"{label}, {name}", rows[label], adapter, photos, text, name, 4))
        it.grid(rows, here, photos, text, first + 30, f"Side by side, {name}", f"grid_{subject}")
        scores += here
    it.table(scores, "Demo: DEFT against LoRA", 300, rows="method x subject")
    it.plot(scores, "Demo: DEFT against LoRA", 301)


SCENES = {
    "table": (
        "a sks table with a red apple and candle on a blue background",
        "a sks table with a pineapple and candle on a yellow background",
        "a sks table with a guitar on a teal background",
        "a sks table with a red apple on a black background",
        "a sks table on a white background",
    ),
    "garden": (
        "a sks garden with a tulip and house on a blue background",
        "a sks garden with a sunflower and snowman on a teal background",
        "a sks garden with a castle on a pink background",
        "a sks garden with a tulip on a black background",
        "a sks garden on a white background",
    ),
}


def scene_personalisation(it: Example) -> None:
    """Figures 4 and 5: a table with things on it, and a garden."""
    it.sampling()
    for number, (scene, lines) in enumerate(SCENES.items()):
        first = 100 * (number + 1)
        photos = it.subject(scene, first, f" of the {scene}")
        it.add(first + 3, "DEFTPrompts", f"Prompts of the {scene}", {"prompts": "\n".join(lines), "token": TOKEN})
        encoded = it.add(
            first + 4,
            "CLIPTextEncode",
            f"Encode the prompts of the {scene}",
            {"text": [str(first + 3), 0], "clip": CLIP},
        )
        adapter = it.train(
            first + 10,
            f"DEFT r8, {scene}",
            [str(first + 1), 0],
            [str(first + 2), 0],
            **{"method.rank": 8, "steps": 600},
        )
        models = {"Base": MODEL, "DEFT r8": it.apply(first + 11, f"DEFT r8, {scene}", adapter)}
        rows = {
            label: it.draw(line, f"{label}, {scene}", model, encoded, first + 20, first + 30)
            for line, (label, model) in enumerate(models.items())
        }
        it.grid(rows, [], photos, [str(first + 3), 1], first + 40, f"Side by side, {scene}", f"grid_{scene}")


def train_with_previews(it: Example) -> None:
    """Pictures while it trains, and a checkpoint from which a stopped training goes on."""
    it.subject()
    it.sampling()
    it.add(
        12,
        "CLIPTextEncode",
        "Preview: another background",
        {"text": "a sks teddy bear on a blue background", "clip": CLIP},
    )
    previews = it.add(
        14,
        "DEFTTrainingPreviews",
        "A preview every 20 steps",
        {
            "vae": VAE,
            "positive": ["12", 0],
            "negative": EMPTY,
            "latent": SIZE,
            "every": 20,
            "steps": 12,
            "cfg": 3.0,
            "sampler": "euler",
            "scheduler": "simple",
            "seed": 7,
        },
    )
    settings = it.add(
        15,
        "DEFTTrainingSettings",
        "A checkpoint every 50 steps",
        {
            **SETTINGS,
            "run_name": f"{it.name}/training",
            "checkpoint_every": 50,
            "keep": 2,
        },
    )
    adapter = it.train(20, "DEFT r4", settings=settings, previews=previews, steps=200)
    it.add(70, "PreviewImage", "Loss", {"images": ["20", 3]})
    it.save(71, ["20", 4], "Previews by step", "previews")
    it.show_text(72, "What the training says", ["20", 2])
    it.add(
        73,
        "DEFTSaveAdapter",
        "Save the adapter",
        {
            "adapter": adapter,
            "filename_prefix": f"{it.name}/teddy_bear",
            "format": "native (.safetensors)",
            "place": "output",
        },
    )
    it.prompts(on_backgrounds("a sks teddy bear", 4))
    model = it.apply(30, "DEFT r4", adapter)
    it.grid({"Base": it.draw(0, "Base", MODEL), "DEFT r4": it.draw(1, "DEFT r4", model)}, node=74)


def stack_two_concepts(it: Example) -> None:
    """Two adapters alone, one after the other, and added up."""
    both_subjects = it.add(
        6,
        "BatchImagesNode",
        "Both subjects",
        {
            "images.image0": it.photos(title="Pictures of the bear"),
            "images.image1": it.photos(SECOND, 5, "Pictures of the duck"),
        },
    )
    first, second = on_backgrounds(f"a {TOKEN} teddy bear", 3), on_backgrounds(f"a {SECOND_TOKEN} {SECOND}", 3)
    it.prompts(first + second, token="")
    it.sampling()
    files = {"bear": DEFT_FILE, "duck": SECOND_FILE}
    adapters = [
        it.add(20 + line, "DEFTLoadAdapterFile", f"Adapter of the {name}", {"file": file, "projector": "auto"})
        for line, (name, file) in enumerate(files.items())
    ]
    models = {
        "Base": MODEL,
        "Bear": it.apply(30, "the bear", adapters[0]),
        "Duck": it.apply(31, "the duck", adapters[1]),
    }
    for line, stacking in enumerate(("sequential", "from_base")):
        both = {"stacking": stacking, "strength_model": 0.7}
        bear = it.apply(32 + 2 * line, f"the bear, {stacking}", adapters[0], **both)
        duck = it.apply(33 + 2 * line, f"the duck, {stacking}", adapters[1], bear, **both)
        models[f"Both, {stacking}"] = duck
    rows = {label: it.draw(line, label, model) for line, (label, model) in enumerate(models.items())}
    it.grid(rows, subject=both_subjects)


def export_as_lora(it: Example) -> None:
    """A DEFT file as a plain LoRA, which ComfyUI's own node applies; the difference of the pictures."""
    it.photos()
    it.prompts(on_backgrounds("a sks teddy bear", 5))
    it.sampling()
    adapter = it.add(20, "DEFTLoadAdapterFile", "The DEFT file", {"file": DEFT_FILE, "projector": "auto"})
    lora = it.add(
        21,
        "DEFTExportLoRA",
        "Export as LoRA",
        {
            "adapter": adapter,
            "model": MODEL,
            "filename_prefix": f"{it.name}/teddy_bear",
            "place": "output",
            "naming": "comfyui",
            "rank_limit": 0,
        },
    )
    it.show_text(72 + 1, "What was exported", [lora[0], 2])
    with_lora = it.add(
        31,
        "LoraModelLoader",
        "ComfyUI's own Load LoRA Model",
        {"model": MODEL, "lora": lora, "strength_model": 1.0, "bypass": False},
    )
    rows = {
        "DEFT": it.draw(0, "with DEFT", it.apply(30, "DEFT", adapter)),
        "Its LoRA": it.draw(1, "with its LoRA", with_lora),
    }
    rows["Difference"] = it.add(
        60,
        "ImageBlend",
        "Difference",
        {
            "image1": rows["DEFT"],
            "image2": rows["Its LoRA"],
            "blend_factor": 1.0,
            "blend_mode": "difference",
        },
    )
    it.grid(rows)


def score_a_folder(it: Example) -> None:
    """Three folders of pictures made before, against the subject's."""
    del it["1"], it["2"], it["3"]
    it.photos()
    it.scorer()
    rows, scores = {}, []
    for line, (label, folder) in enumerate(
        (("Base", "teddy_bear_base"), ("DEFT r4", "teddy_bear_deft"), ("LoRA r4", "teddy_bear_lora"))
    ):
        pictures = it.add(20 + line, "DEFTLoadFolder", f"Folder: {label}", {"folder": f"demo/{folder}"})
        rows[label] = pictures
        scores.append(it.score(line, label, pictures, text=[pictures[0], 1]))
    it.grid(rows, scores, columns=["20", 1])
    it.table(scores, "Demo: folders of pictures")


STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def strength_ladder(it: Example) -> None:
    """One adapter in several strengths."""
    it.photos()
    it.prompts(on_backgrounds("a sks teddy bear", 5))
    it.sampling()
    it.scorer()
    adapter = it.add(20, "DEFTLoadAdapterFile", "The DEFT file", {"file": DEFT_FILE, "projector": "auto"})
    rows, scores = {}, []
    for line, strength in enumerate(STRENGTHS):
        label = f"Strength {strength:g}"
        model = it.apply(30 + line, label.lower(), adapter, strength_model=strength)
        rows[label] = it.draw(line, label.lower(), model)
        scores.append(it.score(line, label, rows[label]))
    it.grid(rows, scores)
    it.table(scores, "Demo: strength of one adapter")
    it.plot(scores, "Demo: strength of one adapter")


EXAMPLES: dict[str, Callable[[Example], None]] = {
    make.__name__: make
    for make in (
        load_and_apply,
        compare_methods,
        diverse_prompts,
        deft_against_lora,
        scene_personalisation,
        train_with_previews,
        stack_two_concepts,
        export_as_lora,
        score_a_folder,
        strength_ladder,
    )
}


def make(name: str) -> Example:
    """An example of EXAMPLES in API form."""
    example = Example(name)
    EXAMPLES[name](example)
    return example


def main() -> None:
    """Write all files."""
    for name in EXAMPLES:
        path = API / f"{name}.json"
        path.write_text(json.dumps(make(name), indent=2) + "\n")
        print(f"[examples] wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
