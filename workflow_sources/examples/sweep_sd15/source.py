"""One line for the plans of table 1 and of DreamBooth's protocol, saved as SVDiff on the third subject."""

from __future__ import annotations

from ...prompt import TOKEN, PromptBuilder
from ...sweep_line import of_table
from ..deft_table1.source import SVDIFF, TABLE_1


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    dog = TABLE_1.subjects[2]
    words = dog.prompts[0].format(f"{TOKEN} {dog.kind}")
    return of_table(TABLE_1, name, SVDIFF, dog.folder, dog.kind, words, dog.name)
