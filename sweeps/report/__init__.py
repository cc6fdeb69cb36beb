"""The report of a sweep, from its store alone: tables, grids and a page.

cells (and their layout) -> reading (records, one at a time) -> reports/sweep (tables, grids, pages) -> write.
"""

from __future__ import annotations

from ...reports.sweep.material import Layout
from .cells import ReportCell
from .write import write_report

__all__ = ["Layout", "ReportCell", "write_report"]
