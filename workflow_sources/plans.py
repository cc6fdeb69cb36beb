"""The sweeps' plans of the paper's tables, of DreamBooth's protocol and of PEFT's image benchmark, as YAML.

sweeps/plans/demo.yaml and the CSV files there are written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .examples.deft_table1.source import HEADER_PROMPT, ONE_PROMPT, TABLE_1
from .examples.deft_table2.source import REPOSITORY, TABLE_2
from .peft_image import ROWS, TRAINING, TRAINING_SETTINGS
from .prompt import SETTINGS, TOKEN
from .tables import SEED, PaperTable

TABLES = {table.name: table for table in (TABLE_1, ONE_PROMPT, TABLE_2, REPOSITORY)}
CLASS = ["Class prompt", "Class pictures"]  # muted: no pictures of the class


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


def rows_of(table: PaperTable) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings of a table's first row, and by label those that each row has instead: method and differences."""
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
    by_label = {
        label: {name: value for name, value in row.items() if name not in shared or value != shared[name]}
        for label, row in rows.items()
    }
    return shared, by_label


def muted(table: PaperTable) -> dict[str, dict[str, Any]]:
    """The nodes that each row mutes or bypasses, its label, and what Textual Inversion sets."""
    priors, inversions = (any(getattr(row, kind) for row in table.methods) for kind in ("prior", "inversion"))
    by_label: dict[str, dict[str, Any]] = {}
    for row in table.methods:
        mute = [] if row.prior or not priors else list(CLASS)
        bypass = []
        if row.inversion:
            mute, bypass = ["Train", *CLASS], ["Apply"]
        elif inversions:
            mute, bypass = [*mute, "Train token"], ["Replace"]
        by_label[row.label] = {
            **({"mute": mute} if mute else {}),
            **({"bypass": bypass} if bypass else {}),
            "Score.label": row.label + table.behind,
        }
        if row.inversion:
            by_label[row.label]["Replace.find"] = "%token% %class%"
    return by_label


_HEAD = "# Generated from workflow_sources/plans.py: make generated PARTS=plans\n"
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
    table: PaperTable,
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
    shared, by_label = rows_of(table)
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
    values = {label: {**leave[label], **by_label.get(label, {})} for label in leave}
    return PLAN.format(
        head=_HEAD,
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


PEFT_HEAD = """{head}\
# Needs the files that the note of sweep_flux2_klein names, DINOv2-base, and of PEFT's benchmark its 20 cat photos and
# its default_training_params.json: `python -m sweeps peft PHOTOS default_training_params.json` makes of them the folder
# input/peft_benchmark and the prompts beside this plan. docs/sweeps.md says where all of it comes from.
# {cells}
# DreamBooth needs some 70 GB of GPU memory, SVDiff some 25: delete these rows where there is less.
name: peft_benchmark
about: PEFT's image benchmark on Flux.2 klein base 4B, with three seeds
workflow: ../../example_workflows/api/sweep_flux2_klein.json
set:
{set}
axes:
  method:
    values:
{methods}
  seed:
    values:
{seeds}
  score:
    values:
      likeness: {{mute: [Score drift, Save drift]}}
      drift: {{mute: [Score, Save scores]}}
  prompt:
    csv: peft_benchmark_prompts.csv
    label: name
    into: {{prompt: Prompt.value, photo: Held-out photo.image, pictures: Size.batch_size}}
exclude:
  - {{score: likeness, kind: drift}}
  - {{score: drift, kind: likeness}}
outputs:
  only: [Save picture, Save scores, Save drift]
report: {report}
"""
# The noise of its pictures has another seed than the training, so that none is of noise that was learnt.
PEFT_SEEDS = {str(seed): {"Train.seed": seed, "Noise.noise_seed": 100_000 + seed} for seed in range(3)}
PEFT_TABLE = "PEFT, image generation"


def peft_plan() -> str:
    """The plan of PEFT's image benchmark."""
    chosen = ("weight_decay", "max_grad_norm", "timesteps", "shift", "p_rate", "exclude", "checkpoint_every")
    fixed = {
        "Photos.folder": "input/peft_benchmark/training",
        "Score.subject": "cat",
        "Score drift.subject": "cat",
        "Settings.run_name": "peft_benchmark/training",
        **{f"Settings.{name}": TRAINING_SETTINGS[name] for name in chosen},
        **{f"Train.{name}": value for name, value in TRAINING.items() if name != "seed"},
    }
    rows = {
        row.label: {"Score.label": row.label, "Score drift.label": row.label}
        | {f"Settings.{name}": value for name, value in row.settings.items()}
        | {f"Train.{name}": value for name, value in row.training.items() if TRAINING.get(name) != value}
        for row in ROWS
    }
    count, seeds = len(ROWS), len(PEFT_SEEDS)
    return PEFT_HEAD.format(
        head=_HEAD,
        cells=(
            f"{count * seeds} trainings; {count} x {seeds} x (4 + 10) = {count * seeds * 14} cells, with "
            f"{count * seeds * 22} pictures and {count * seeds * 10} of the base."
        ),
        set=block(fixed, 2),
        methods=block(rows, 6),
        seeds=block(PEFT_SEEDS, 6),
        report=flow(
            {
                "rows": ["method"],
                "columns": ["seed"],
                "grid_columns": ["prompt"],
                "picture": "Save picture",
                "published": PEFT_TABLE,
            },
            8,
        ),
    )


def inline_prompts(*lines: str) -> str:
    """Prompts that stand in the plan itself."""
    values = "\n".join(f"      - {scalar(line)}" for line in lines)
    return f"  prompt:\n    into: Prompt.value\n    values:\n{values}"


def inline(table: PaperTable) -> tuple[str, str]:
    """The subjects and prompts of a table that stand in the plan itself."""
    subjects = {
        subject.name: {"Photos.folder": subject.folder, "%class%": subject.kind, "Score.subject": subject.name}
        for subject in table.subjects
    }
    (prompts,) = {tuple(line.format("%class%") for line in subject.prompts) for subject in table.subjects}
    return f"  subject:\n    values:\n{block(subjects, 6)}", inline_prompts(*prompts)


def plans() -> dict[str, str]:
    """All of them by name."""
    dreambooth = "the folders of DreamBooth's photos in input/dreambooth"
    three = [subject.name for subject in TABLE_1.subjects]
    subjects, prompts = inline(TABLE_2)
    every = len(TABLE_1.methods)
    return {
        "peft_benchmark": peft_plan(),
        "table1": plan(
            TABLE_1,
            "sweep_sd15",
            "table1",
            "Table 1 of the DEFT paper's supplement, CLIP image similarity on SD 1.5",
            NEEDS.format(
                checkpoint=TABLE_1.checkpoint,
                photos=dreambooth,
                cells=(
                    f"{every * 3} trainings; {every} x 3 x 25 = {every * 75} cells of {TABLE_1.batch} pictures, as the "
                    "example deft_table1 makes them."
                ),
            ),
            FROM_CSV.format(only=f"\n    only: {{name: [{', '.join(three)}]}}"),
            PROMPTS_CSV,
            1,
            {"rows": ["method"], "columns": ["subject"]},
            Scorer__protocol=TABLE_1.protocol,
            Size__batch_size=TABLE_1.batch,
        ),
        "table1_one_prompt": plan(
            ONE_PROMPT,
            "sweep_sd15",
            "table1_one_prompt",
            "Table 1 of the DEFT paper's supplement with its header as the only prompt, on SD 1.5",
            NEEDS.format(
                checkpoint=TABLE_1.checkpoint,
                photos=dreambooth,
                cells=(
                    f"{every * 3} trainings; {every} x 3 x 25 = {every * 75} cells of {TABLE_1.batch} pictures, "
                    "as many as in\n# the example deft_table1_one_prompt; a cell begins with a seed of its own."
                ),
            ),
            FROM_CSV.format(only=f"\n    only: {{name: [{', '.join(three)}]}}"),
            inline_prompts(HEADER_PROMPT.format("%token% %class%")),
            ONE_PROMPT.noises // ONE_PROMPT.batch,
            {"rows": ["method"], "columns": ["subject"]},
            Scorer__protocol=TABLE_1.protocol,
            Size__batch_size=TABLE_1.batch,
        ),
        "table2": plan(
            TABLE_2,
            "sweep_sdxl",
            "table2",
            "Table 2 of the DEFT paper's supplement, DreamBench++ on SDXL",
            NEEDS.format(
                checkpoint=TABLE_2.checkpoint,
                photos="four photos of DreamBench++ in input/dreambench_plus",
                cells="8 trainings; 2 x 4 x 9 = 72 pictures, as the example deft_table2 makes them.",
            ),
            subjects,
            prompts,
            1,
            {"rows": ["method", "subject"], "grid_rows": ["method"], "grid_columns": ["subject"]},
            Scorer__protocol=TABLE_2.protocol,
            Size__batch_size=TABLE_2.batch,
        ),
        "dreambooth": plan(
            TABLE_1,
            "sweep_sd15",
            "dreambooth",
            "DreamBooth's whole protocol, 30 subjects x 25 prompts x 4 pictures, on SD 1.5",
            NEEDS.format(
                checkpoint=TABLE_1.checkpoint,
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
