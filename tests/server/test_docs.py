"""Commands of README.md and docs/ that need a server, with short trainings and few values. The list is in
tests/unit/test_docs.py."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT
from .example_files import with_few_steps
from .sweep_tools import sweeps


@pytest.mark.timeout(600)
def test_make_demo(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """demo/run.py, which is what `make demo` starts; it starts a server of its own."""
    spec = importlib.util.spec_from_file_location("demo_run", ROOT / "demo" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    short = tmp_path / "short.json"
    short.write_text(json.dumps(with_few_steps(json.loads(run.WORKFLOW.read_text()))))
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "WORKFLOW", short)
    monkeypatch.setattr(run, "OUT", tmp_path / "out")
    run.main()
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert rows[0][0] == "method"
    assert {"CLIP-I \u2191", "CLIP-T \u2191", "DINO \u2191"} <= set(rows[0])
    assert "Base" in rows[2]
    assert any(row[0].startswith("DEFT") for row in rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.md", "table.png", "grid.png", "plot.png"}


@pytest.mark.timeout(600)
def test_the_first_sweep(server: Any, tmp_path: Path) -> None:
    """The demo's plan by the command line: run, and report with all options that docs/sweeps.md names."""
    plan = yaml.safe_load((ROOT / "sweeps" / "plans" / "demo.yaml").read_text())
    plan["workflow"] = str(ROOT / "example_workflows" / "api" / "sweep_demo.json")
    plan["set"] = {**plan.get("set", {}), "Train.steps": 2}
    plan["axes"]["prompt"]["values"] = plan["axes"]["prompt"]["values"][:1]
    plan["axes"]["rank"]["values"] = plan["axes"]["rank"]["values"][:1]
    plan["axes"]["seed"]["seeds"] = 1
    path, store, out = tmp_path / "demo.yaml", tmp_path / "store", tmp_path / "report"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    assert "0 failed" in sweeps("run", path, "--store", store, "--server", server.url)
    sweeps(
        "report",
        path,
        "--store",
        store,
        "--rows",
        "method,rank",
        "--grid-columns",
        "prompt",
        "--metrics",
        "CLIP-I,DINO",
        "--out",
        out,
    )
    assert (out / "index.html").is_file()
    assert (out / "grid-1.png").is_file()
    (head, *rows) = csv.reader((out / "scores.csv").read_text().splitlines())
    assert {"CLIP-I", "DINO"} <= set(head)
    assert "CLIP-T" not in head
    assert len(rows) == 4
