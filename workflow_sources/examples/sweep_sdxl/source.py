"""One line for the plan of table 2, saved as its first method on its first subject."""

from __future__ import annotations

from ...prompt import PromptBuilder
from ...sweep_line import of_table
from ..deft_table2.source import TABLE_2


def prompt(name: str) -> PromptBuilder:
    """The workflow in API form."""
    kitten = TABLE_2.subjects[0]
    words = kitten.prompts[0].format(kitten.kind)
    return of_table(TABLE_2, name, TABLE_2.methods[0], kitten.folder, kitten.kind, words, kitten.name)
