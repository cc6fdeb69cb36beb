"""Published tables as data: one file each, one line in PUBLISHED."""

from __future__ import annotations

from .base import PublishedTable, RowKey
from .deft_dreambench import DEFT_DREAMBENCH
from .deft_subjects import DEFT_SUBJECTS
from .dreambooth import DREAMBOOTH_BASELINES
from .peft_image import PEFT_IMAGE

PUBLISHED: dict[str, PublishedTable] = {
    table.name: table for table in (DEFT_SUBJECTS, DEFT_DREAMBENCH, DREAMBOOTH_BASELINES, PEFT_IMAGE)
}

__all__ = ["PUBLISHED", "RowKey", "PublishedTable"]
