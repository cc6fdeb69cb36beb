"""One line for the plan of table 2, saved as its first method on its first subject."""

from __future__ import annotations

from ...prompt import Prompt
from ...sweep_line import of_table
from ..deft_table2.source import TABLE


def prompt(name: str) -> Prompt:
    """The workflow in API form."""
    kitten = TABLE.subjects[0]
    words = kitten.prompts[0].format(kitten.kind)
    return of_table(TABLE, name, TABLE.methods[0], kitten.folder, kitten.kind, words, kitten.name)
