"""Table 2 of the DEFT paper's supplement: DEFT and LoRA on SDXL; and as in the authors' repository."""

from __future__ import annotations

from dataclasses import replace

from ...prompt import PromptBuilder
from ...tables import PAPER_LAYERS, PaperTable, TableMethod, TableSubject, low_rank, make, method, training

# In the manner of DreamBench++: four photographs, three styles, two imagined scenes. These are not its own prompts.
NINE = [
    "a photo of a {} in a meadow at sunrise",
    "a photo of a {} beside a calm lake",
    "a photo of a {} in a snowy forest",
    "a photo of a {} on a cobblestone street in the rain",
    "a watercolor painting of a {} among wildflowers",
    "an oil painting of a {} under a starry sky in the style of Van Gogh",
    "a Japanese woodblock print of a {} in front of waves",
    "a {} in a space suit floating above the Earth",
    "a giant {} walking between the towers of a city at night",
]
SDXL = training(500, 5e-5, PAPER_LAYERS, checkpointing=True)
TABLE_2 = PaperTable(
    2,
    "DEFT supplement, Table 2: DreamBench++ on SDXL",
    "sd_xl_base_1.0.safetensors",
    1024,
    "",
    "a photo of {}",
    "dreambench++",
    1,
    {"steps": 100, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal"},
    [
        TableSubject("kitten", "dreambench_plus/live_subject_animal_00_kitten", "kitten", NINE),
        TableSubject("stork", "dreambench_plus/live_subject_animal_01_stork", "stork", NINE),
        TableSubject("kitten 2", "dreambench_plus/live_subject_animal_02_kitten", "kitten", NINE),
        TableSubject("horse", "dreambench_plus/live_subject_animal_03_horse", "horse", NINE),
    ],
    [
        TableMethod("DEFT r4", low_rank("deft", 4) | SDXL, {"preset": "DEFT r4 (SDXL)"}),
        TableMethod("LoRA r4", low_rank("lora", 4) | SDXL, {"preset": "LoRA r4 (SDXL)"}),
    ],
    0.25,
)
# MAXNORM8650/DEFT, dreambench_plus: what its commands and its sampling say (docs/tables.md). DEFT's own script is in no
# public version.
REPOSITORY = replace(
    TABLE_2,
    title=f"{TABLE_2.title}, as in the authors' repository",
    protocol="dreambench++-deft",
    subjects=[
        replace(subject, prompts=[], captions=f"dreambench_plus/captions/live_subject/animal/{number:02}.txt")
        for number, subject in enumerate(TABLE_2.subjects)
    ],
    methods=[
        TableMethod(
            "DEFT r8",
            method("deft", rank=8, alpha=0.0, projector="ppt", start="paper") | SDXL,
            {"preset": "DEFT r8 (SDXL)"},
        ),
        TableMethod(
            "LoRA r4",
            low_rank("lora", 4) | SDXL,
            {"preset": "LoRA r4 (SDXL)", "gaussian_start": True},
        ),
    ],
    noises=len(NINE),
    through=True,
    reading="repository",
    behind=" (repository)",
)
_READINGS = {table.name: table for table in (TABLE_2, REPOSITORY)}


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form. name: of the reading."""
    return make(_READINGS[name])
