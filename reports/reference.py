"""Which row of a comparison is the base model's: the reference of the others, and no rival of theirs."""

from __future__ import annotations

import re

_BASE = re.compile(r"(the )?base( model)?|no adapter|without adapter|(底模|基础模型|基模|原模型)", re.IGNORECASE)


def is_base(label: str, method: str = "") -> bool:
    """Whether a row with this label, and with pictures of no method, is of the base model without an adapter.

    Scores do not carry it: Score Images knows no model. So it goes by the label that the examples and the help give it.
    """
    return not method and _BASE.fullmatch(" ".join(label.split())) is not None
