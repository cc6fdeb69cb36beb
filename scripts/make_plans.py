"""Write the workflows and plans of the sweeps: one line from photos to scores, and what varies in it.

    $(make -s python) scripts/make_plans.py
    $(make -s python) scripts/make_workflows.py sweep_demo sweep_sd15 sweep_sdxl

The workflows are sweep_demo.json, sweep_sd15.json and sweep_sdxl.json in example_workflows/api. The plans are
table1.yaml, table2.yaml and dreambooth.yaml in sweeps/plans, with the settings of make_tables.py. demo.yaml and the CSV
files are written by hand. Plans name nodes by their titles, so these are short and no two are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from make_tables import API, PLANS, ROOT, SEED, SETTINGS, TABLES, TOKEN, Link, Method, Prompt, Table

ONE, TWO = TABLES["deft_table1"], TABLES["deft_table2"]
APPLY = {"strength_model": 1.0, "strength_clip": 1.0, "removal": 1.0, "injection": 1.0, "stacking": "sequential"}
MODELS = {"clip_weights": "auto", "dino_weights": "auto", "dinov2_weights": "auto"}
CLASS = ["Class prompt", "Class pictures"]  # muted: no pictures of the class
TOKEN_MARK = "[token]"  # in a prompt of sweep_sd15 as it is saved: what Train token has learnt


def method_named(label: str) -> Method:
    """A row of table 1."""
    return next(row for row in ONE.methods if row.label == label)


# ---------------------------------------------------------------------------------------------------------- workflows


def demo() -> Prompt:
    """The line on the demo's small model."""
    prompt = Prompt()
    words = "a sks teddy bear on a red background"
    model = prompt.add(
        1, "UNETLoader", "Model", {"unet_name": "deft_demo_denoiser.safetensors", "weight_dtype": "default"}
    )
    clip = prompt.add(2, "DEFTDemoTextEncoder", "Text encoder", {})
    vae = prompt.add(3, "VAELoader", "Autoencoder", {"vae_name": "deft_demo_vae.safetensors"})
    scorer = prompt.add(4, "DEFTLoadScorer", "Scorer", {"protocol": "demo", **MODELS})
    size = prompt.add(5, "EmptySD3LatentImage", "Size", {"width": 64, "height": 64, "batch_size": 1})
    photos = prompt.add(10, "DEFTDemoSubject", "Photos", {"subject": "teddy_bear", "token": TOKEN})
    latents = prompt.add(11, "VAEEncode", "Encode photos", {"pixels": photos, "vae": vae})
    captions = prompt.add(12, "CLIPTextEncode", "Captions", {"text": [photos[0], 1], "clip": clip})
    trained = prompt.add(
        20,
        "DEFTTrainAdapter",
        "Train",
        {
            "model": model,
            "latents": latents,
            "positive": captions,
            "method": "deft",
            "method.rank": 4,
            "method.alpha": 0.0,
            "method.projector": "qr",
            "method.start": "identity",
            "steps": 400,
            "learning_rate": 0.001,
            "batch_size": 5,
            "layers": "all linear",
            "pattern": "",
            "seed": 1,
            "precision": "fp32",
            "gradient_checkpointing": False,
        },
    )
    positive = prompt.add(40, "CLIPTextEncode", "Prompt", {"text": words, "clip": clip})
    negative = prompt.add(41, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": clip})
    end(
        prompt,
        model,
        trained,
        positive,
        negative,
        size,
        vae,
        scorer,
        photos,
        "sweep_demo",
        {"seed": 7, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"},
        {"text": words, "label": "DEFT r4", "subject": "teddy bear", "token": TOKEN},
    )
    return prompt


def of_table(table: Table, name: str, row: Method, folder: str, kind: str, words: str, subject: str) -> Prompt:
    """The line with a table's model and settings, saved as a row and a subject of it.

    Where the table has such rows: pictures of the class for the training, and Textual Inversion beside it.
    """
    prompt = Prompt()
    model = prompt.add(1, "CheckpointLoaderSimple", "Model", {"ckpt_name": table.checkpoint})
    clip, vae = [model[0], 1], [model[0], 2]
    scorer = prompt.add(2, "DEFTLoadScorer", "Scorer", {"protocol": table.protocol, **MODELS})
    side = {"width": table.side, "height": table.side}
    size = prompt.add(3, "EmptyLatentImage", "Size", {**side, "batch_size": 1})
    settings = prompt.add(
        4, "DEFTTrainingSettings", "Settings", {**SETTINGS, **row.settings, "run_name": f"{name}/training"}
    )
    photos = prompt.add(10, "LoadImageDataSetFromFolder", "Photos", {"folder": folder})
    cut = prompt.add(11, "ImageScale", "Cut", {"image": photos, "upscale_method": "lanczos", **side, "crop": "center"})
    latents = prompt.add(12, "VAEEncode", "Encode photos", {"pixels": cut, "vae": vae})
    caption = prompt.add(13, "CLIPTextEncode", "Caption", {"text": table.caption.format(kind), "clip": clip})
    negative = prompt.add(14, "CLIPTextEncode", "Empty prompt", {"text": "", "clip": clip})
    prior: dict[str, Link] = {}
    if any(one.prior for one in table.methods):
        of_class = prompt.add(15, "CLIPTextEncode", "Class prompt", {"text": f"a photo of a {kind}", "clip": clip})
        whole = prompt.add(16, "EmptyLatentImage", "200 class pictures", {**side, "batch_size": 200})
        parts = prompt.add(17, "RebatchLatents", "Eight at a time", {"latents": whole, "batch_size": 8})
        pictures = prompt.add(
            18,
            "KSampler",
            "Class pictures",
            {
                "model": model,
                "positive": of_class,
                "negative": negative,
                "latent_image": parts,
                "seed": SEED,
                **table.sampling,
                "denoise": 1.0,
            },
        )
        prior = {"prior_latents": pictures, "prior_positive": of_class}
    trained = prompt.add(
        20,
        "DEFTTrainAdapter",
        "Train",
        {
            "model": model,
            "latents": latents,
            "positive": caption,
            **row.training,
            "settings": settings,
            **prior,
        },
    )
    text = prompt.add(40, "PrimitiveStringMultiline", "Prompt", {"value": words})
    final = text
    for one in table.methods:
        if one.inversion:
            own = prompt.add(
                30, "DEFTTrainingSettings", "Token settings", {**SETTINGS, **one.settings, "run_name": f"{name}/token"}
            )
            learnt = prompt.add(
                31,
                "DEFTTrainTextualInversion",
                "Train token",
                {
                    "model": model,
                    "clip": clip,
                    "latents": latents,
                    "token": f"{name.replace('_', '-')}-{subject}",
                    "start": kind,
                    **one.training,
                    "settings": own,
                },
            )
            final = prompt.add(41, "StringReplace", "Replace", {"string": text, "find": TOKEN_MARK, "replace": learnt})
    positive = prompt.add(42, "CLIPTextEncode", "Encode prompt", {"text": final, "clip": clip})
    end(
        prompt,
        model,
        trained,
        positive,
        negative,
        size,
        vae,
        scorer,
        photos,
        name,
        {"seed": SEED, **table.sampling},
        {"text": text, "label": row.label, "subject": subject, "token": table.token},
    )
    return prompt


def end(
    prompt: Prompt,
    model: Link,
    trained: Link,
    positive: Link,
    negative: Link,
    size: Link,
    vae: Link,
    scorer: Link,
    photos: Link,
    name: str,
    sampling: Mapping[str, Any],
    scored: Mapping[str, Any],
) -> None:
    """What all lines end with: apply, sample, decode, save, score, save the scores."""
    applied = prompt.add(21, "DEFTApplyAdapter", "Apply", {"model": model, "adapter": trained, **APPLY})
    latent = prompt.add(
        50,
        "KSampler",
        "Sample",
        {
            "model": applied,
            "positive": positive,
            "negative": negative,
            "latent_image": size,
            **sampling,
            "denoise": 1.0,
        },
    )
    images = prompt.add(51, "VAEDecode", "Decode", {"samples": latent, "vae": vae})
    prompt.add(52, "SaveImage", "Save picture", {"images": images, "filename_prefix": f"{name}/picture"})
    scores = prompt.add(
        60,
        "DEFTScoreImages",
        "Score",
        {
            "scorer": scorer,
            "images": images,
            "references": photos,
            **scored,
            "adapter": trained,
        },
    )
    prompt.add(61, "DEFTSaveScores", "Save scores", {"scores.scores0": scores, "filename_prefix": f"{name}/scores"})


def workflows() -> dict[str, Prompt]:
    """All of them by name."""
    dog, kitten = ONE.subjects[2], TWO.subjects[0]
    return {
        "sweep_demo": demo(),
        "sweep_sd15": of_table(
            ONE,
            "sweep_sd15",
            method_named("SVDiff"),
            dog.folder,
            dog.kind,
            dog.prompts[0].format(f"{TOKEN} {dog.kind}"),
            dog.name,
        ),
        "sweep_sdxl": of_table(
            TWO,
            "sweep_sdxl",
            TWO.methods[0],
            kitten.folder,
            kitten.kind,
            kitten.prompts[0].format(kitten.kind),
            kitten.name,
        ),
    }


# -------------------------------------------------------------------------------------------------------------- plans


def scalar(value: Any) -> str:
    """A value in YAML, between braces; strings without quotes where they cannot be taken for anything else."""
    if isinstance(value, list):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # YAML takes 5e-05 for a word
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w+/.-]*( [\w(+/.-][\w)+/.-]*)*", value)
    if plain and value.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n"):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def flow(values: Mapping[str, Any], indent: int) -> str:
    """A mapping between braces that begins behind `indent` characters, in lines of 120 at most."""
    lines = [""]
    for number, (name, value) in enumerate(values.items(), 1):
        item = f"{scalar(name)}: {scalar(value)}" + (", " if number < len(values) else "}")
        if lines[-1] and indent + 1 + len(lines[-1]) + len(item.rstrip()) > 120:
            lines.append("")
        lines[-1] += item
    return "{" + f"\n{' ' * (indent + 1)}".join(line.rstrip() for line in lines)


def block(values: Mapping[str, Any], indent: int) -> str:
    """A mapping with a line for each, mappings in it between braces."""
    lines = []
    for name, value in values.items():
        key = f"{' ' * indent}{scalar(name)}: "
        lines.append(key + (flow(value, len(key)) if isinstance(value, Mapping) else scalar(value)))
    return "\n".join(lines)


def rows_of(table: Table) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the first row of a table sets, and by label what each row sets otherwise: its method, and what differs."""
    differing = {name for row in table.methods if not row.inversion for name in row.settings}
    rows: dict[str, dict[str, Any]] = {}
    for row in table.methods:
        if not row.inversion:
            settings = {**SETTINGS, **row.settings}
            rows[row.label] = {f"Train.{name}": value for name, value in row.training.items()} | {
                f"Settings.{name}": settings[name] for name in SETTINGS if name in differing
            }
    first = next(iter(rows.values()))
    shared = {name: value for name, value in first.items() if not name.startswith("Train.method")}
    own = {
        label: {name: value for name, value in row.items() if name not in shared or value != shared[name]}
        for label, row in rows.items()
    }
    return shared, own


def muted(table: Table) -> dict[str, dict[str, Any]]:
    """What each row leaves out of the workflow, its label, and what Textual Inversion sets."""
    priors, inversions = (any(getattr(row, kind) for row in table.methods) for kind in ("prior", "inversion"))
    found: dict[str, dict[str, Any]] = {}
    for row in table.methods:
        mute = [] if row.prior or not priors else list(CLASS)
        bypass = []
        if row.inversion:
            mute, bypass = ["Train", *CLASS], ["Apply"]
        elif inversions:
            mute, bypass = [*mute, "Train token"], ["Replace"]
        found[row.label] = {
            **({"mute": mute} if mute else {}),
            **({"bypass": bypass} if bypass else {}),
            "Score.label": row.label,
        }
        if row.inversion:
            found[row.label]["Replace.find"] = "%token% %class%"
    return found


HEAD = "# Written by scripts/make_plans.py; change that and run it again.\n"
PLAN = """{head}{needs}
name: {name}
about: {about}
workflow: ../../example_workflows/api/{workflow}.json
set:
{set}
axes:
  method:
    values:
{methods}
{subject}
{prompt}
  seed: {{into: Sample.seed, seeds: {seeds}, first: {first}}}
outputs:
  only: [Save picture, Save scores]
report: {report}
"""
FROM_CSV = """  subject:
    csv: dreambooth_subjects.csv
    label: name
    into: {{folder: Photos.folder, class: "%class%", name: ["%subject%", Score.subject]}}{only}"""
PROMPTS_CSV = """  prompt:
    csv: dreambooth_prompts.csv
    label: name
    into: {prompt: Prompt.value}
    match: [kind]"""
NEEDS = """# Needs {checkpoint} in models/checkpoints, the weights of the scorer,
# and {photos}.
# {cells}"""


def plan(
    table: Table,
    workflow: str,
    name: str,
    about: str,
    needs: str,
    subject: str,
    prompt: str,
    seeds: int,
    report: Mapping[str, list[str]],
    **fixed: Any,
) -> str:
    """A plan with the methods of a table. fixed: by Title__input."""
    shared, own = rows_of(table)
    leave = muted(table)
    given = {key.replace("__", "."): value for key, value in fixed.items()}
    caption = table.caption.format("%class%").replace(TOKEN, "%token%")
    texts: dict[str, Any] = {"Caption.text": caption}
    if table.token:
        texts = {"%token%": table.token, **texts}
    if any(row.prior for row in table.methods):
        texts["Class prompt.text"] = "a photo of a %class%"
    if any(row.inversion for row in table.methods):
        texts |= {
            "Train token.token": f"deft-{name}-%subject%",
            "Train token.start": "%class%",
            "Token settings.run_name": f"{name}/token",
        }
    values = {label: {**leave[label], **own.get(label, {})} for label in leave}
    return PLAN.format(
        head=HEAD,
        needs=needs,
        name=name,
        about=about,
        workflow=workflow,
        set=block({**texts, "Settings.run_name": f"{name}/training", **given, **shared}, 2),
        methods=block(values, 6),
        subject=subject,
        prompt=prompt,
        seeds=seeds,
        first=SEED,
        report=flow({**report, "picture": "Save picture"}, 8),
    )


def inline(table: Table) -> tuple[str, str]:
    """Subjects and prompts of a table that stand in the plan itself."""
    subjects = {
        subject.name: {"Photos.folder": subject.folder, "%class%": subject.kind, "Score.subject": subject.name}
        for subject in table.subjects
    }
    (prompts,) = {tuple(line.format("%class%") for line in subject.prompts) for subject in table.subjects}
    lines = "\n".join(f"      - {scalar(line)}" for line in prompts)
    return (
        f"  subject:\n    values:\n{block(subjects, 6)}",
        f"  prompt:\n    into: Prompt.value\n    values:\n{lines}",
    )


def plans() -> dict[str, str]:
    """All of them by name."""
    dreambooth = "the folders of DreamBooth's photos in input/dreambooth"
    three = [subject.name for subject in ONE.subjects]
    subjects, prompts = inline(TWO)
    every = len(ONE.methods)
    return {
        "table1": plan(
            ONE,
            "sweep_sd15",
            "table1",
            "Table 1 of the DEFT paper's supplement, CLIP image similarity on SD 1.5",
            NEEDS.format(
                checkpoint=ONE.checkpoint,
                photos=dreambooth,
                cells=(
                    f"{every * 3} trainings; {every} x 3 x 25 = {every * 75} cells of {ONE.batch} pictures, as the "
                    "example deft_table1 makes them."
                ),
            ),
            FROM_CSV.format(only=f"\n    only: {{name: [{', '.join(three)}]}}"),
            PROMPTS_CSV,
            1,
            {"rows": ["method"], "columns": ["subject"]},
            Scorer__protocol=ONE.protocol,
            Size__batch_size=ONE.batch,
        ),
        "table2": plan(
            TWO,
            "sweep_sdxl",
            "table2",
            "Table 2 of the DEFT paper's supplement, DreamBench++ on SDXL",
            NEEDS.format(
                checkpoint=TWO.checkpoint,
                photos="four photos of DreamBench++ in input/dreambench_plus",
                cells="8 trainings; 2 x 4 x 9 = 72 pictures, as the example deft_table2 makes them.",
            ),
            subjects,
            prompts,
            1,
            {"rows": ["method", "subject"], "grid_rows": ["method"], "grid_columns": ["subject"]},
            Scorer__protocol=TWO.protocol,
            Size__batch_size=TWO.batch,
        ),
        "dreambooth": plan(
            ONE,
            "sweep_sd15",
            "dreambooth",
            "DreamBooth's whole protocol, 30 subjects x 25 prompts x 4 pictures, on SD 1.5",
            NEEDS.format(
                checkpoint=ONE.checkpoint,
                photos=dreambooth,
                cells=(
                    f"{every * 30} trainings; {every} x 30 x 25 x 4 = {every * 3000} pictures.\n"
                    "# Leave out what is too much: methods, subjects (only: {name: [...]}), seeds."
                ),
            ),
            FROM_CSV.format(only=""),
            PROMPTS_CSV,
            4,
            {"rows": ["method"], "grid_columns": ["subject"]},
            Scorer__protocol="dreambooth",
            Size__batch_size=1,
        ),
    }


def main() -> None:
    """Write all files."""
    written = {API / f"{name}.json": json.dumps(prompt, indent=2) + "\n" for name, prompt in workflows().items()}
    written |= {PLANS / f"{name}.yaml": text for name, text in plans().items()}
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
        print(f"[plans] wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
