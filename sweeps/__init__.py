"""Batch running of saved workflows: a plan becomes cells, cells become records in a store, records become a report.

`python -m sweeps --help` in the pack's folder. ComfyUI is talked to over HTTP only.
"""
