"""The report of a sweep, from its store alone: tables, grids and a page.

wanted (cells, layout) -> reading (records, one at a time) -> pivot (tables), grids, page -> write.
"""

from __future__ import annotations

from .wanted import Layout, Wanted
from .write import write_report

__all__ = ["Layout", "Wanted", "write_report"]
