"""Table 1 of the DEFT paper's supplement: nine methods on SD 1.5, in both readings of its prompts."""

from __future__ import annotations

from dataclasses import replace

from ...prompt import TOKEN, PromptBuilder
from ...tables import (
    PAPER_LAYERS,
    PROMPTS,
    SEED,
    SUBJECTS,
    PaperTable,
    TableMethod,
    TableSubject,
    low_rank,
    make,
    method,
    training,
)

# Published for SDXL only; 1e-4 is what LoRA has for SD 1.5 in DreamBench++, DEFT in PEFT's example, and PaRa.
LOW_RANK = training(500, 1e-4, PAPER_LAYERS)
# What a preset sets is written at the nodes, too, so that they show what is done (tests/comfy/test_tables.py compares).
SVDIFF = TableMethod(
    "SVDiff",
    method("svdiff", norm_rate=1e-3, keep_decomposition=True) | training(1000, 1e-3, "everything"),
    {"preset": "SVDiff (SD 1.5)", "weight_decay": 1e-2, "prior_weight": 1.0},
    prior=True,
)
# fp32, because bf16 would round most of so small a change away. No checkpoints: 10 GB each, for minutes of work.
_DREAMBOOTH = TableMethod(
    "DreamBooth",
    method("dreambooth") | training(250, 2.5e-6, "everything", "fp32", True),
    {"preset": "DreamBooth (SD 1.5)", "weight_decay": 1e-2, "checkpoint_every": 0, "resume": False},
)
INVERSION = TableMethod(
    "Textual Inversion",
    {
        "vectors": 1,
        "template": "object",
        "steps": 3000,
        "learning_rate": 1e-3,
        "batch_size": 1,
        "seed": SEED,
        "overwrite": True,
        "precision": "auto",
        "gradient_checkpointing": False,
    },
    {"preset": "Textual Inversion (SD 1.5)", "weight_decay": 1e-2},
    inversion=True,
)
TABLE_1 = PaperTable(
    1,
    "DEFT supplement, Table 1: CLIP image similarity on SD 1.5",
    "v1-5-pruned-emaonly-fp16.safetensors",
    512,
    TOKEN,
    f"a photo of {TOKEN} {{}}",
    "clip-image",
    4,
    {"steps": 50, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"},
    [
        TableSubject(name, SUBJECTS[name]["folder"], SUBJECTS[name]["class"], PROMPTS[SUBJECTS[name]["kind"]])
        for name in ("bear_plushie", "cat", "dog8")
    ],
    [
        *(
            TableMethod(label, low_rank(kind, rank) | LOW_RANK)
            for label, kind, rank in (
                ("DEFT r8", "deft", 8),
                ("DEFT r4", "deft", 4),
                ("PaRa r4", "para", 4),
                ("PaRa r8", "para", 8),
                ("LoRA r4", "lora", 4),
                ("LoRA r8", "lora", 8),
            )
        ),
        SVDIFF,
        _DREAMBOOTH,
        INVERSION,
    ],
    0.5,
)
# The table's header, "A photo of [V]", as its only prompt: a hundred pictures of it, as many as of 25 prompts.
HEADER_PROMPT = "a photo of {}"
ONE_PROMPT = replace(
    TABLE_1,
    title=f"{TABLE_1.title}, one prompt",
    subjects=[replace(subject, prompts=[HEADER_PROMPT]) for subject in TABLE_1.subjects],
    noises=100,
    reading="one_prompt",
    behind=" (one prompt)",
    trained=TABLE_1.name,
)
_READINGS = {table.name: table for table in (TABLE_1, ONE_PROMPT)}


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form. name: of the reading."""
    return make(_READINGS[name])
