"""The routes over the runs on a real server: what lies in the output folder is shown, and nothing else."""

from __future__ import annotations

import http.client
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ..unit.test_run_history import JPEG, MARK, make

RUNS = "/deft/v1/runs"


@pytest.fixture(scope="module")
def outside(server: Any) -> Iterator[Path]:
    """A run and a secret beside the output folder; in it are a run of its own, a damaged one, and links."""
    output, beside = server.base / "output", server.base / "beside"
    secret = make(beside, f"secret_{MARK}")
    (secret / "preview_00000002.jpg").write_bytes(JPEG + b"SECRET")
    run = make(output, f"routes/duck_{MARK}", title="<img src=x onerror=alert(1)>")
    score = {"metric": "CLIP-I", "values": [0.5, 0.75], "label": "deft", "subject": "duck", "images": 2}
    score |= {"references": 5, "protocol": "p", "pairing": "all", "scale": 1.0, "backbone": "b", "preprocessing": "c"}
    (run / "scores.jsonl").write_text(json.dumps(score) + "\n{broken\n")
    damaged = make(output, f"routes/damaged_{MARK}")
    (damaged / "run.json").write_text("[" * 50_000)
    (damaged / "log.jsonl").write_bytes(b'\x00\xff{"step": NaN}\n' * 100)
    (damaged / "preview_00000002.jpg").unlink()
    (damaged / "preview_00000002.jpg").symlink_to(secret / "preview_00000002.jpg")
    (damaged / "scores.jsonl").write_text("{}\n")
    (damaged / "linked.jsonl").symlink_to(run / "scores.jsonl")
    (output / f"linked_{MARK}").symlink_to(secret, target_is_directory=True)
    yield beside
    for folder in (beside, output / "routes"):
        shutil.rmtree(folder)
    (output / f"linked_{MARK}").unlink()


def ask(server: Any, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The answer to a path that is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def listed(server: Any) -> dict[str, Any]:
    """The runs of this file by the last part of their names."""
    runs = server.get(f"/api{RUNS}")["runs"]
    return {run["name"].rpartition("/")[2]: run for run in runs if run["name"].startswith("routes/")}


def test_list_run_and_preview(server: Any, outside: Path) -> None:
    runs = listed(server)
    assert set(runs) == {f"duck_{MARK}", f"damaged_{MARK}"}
    run = runs[f"duck_{MARK}"]
    assert (run["method"], run["base"], run["step"], run["steps"], run["loss"]) == ("deft", "SDXL", 3, 20, 1 / 3)
    assert run["title"] == "<img src=x onerror=alert(1)>"  # the page shows it as text
    for prefix in ("", "/api"):
        shown = server.get(f"{prefix}{RUNS}/{run['id']}")
        assert run.items() <= shown.items()
        assert shown["curve"]["loss"] == [1, 1 / 2, 1 / 3]
        assert (shown["settings"]["rank"], shown["previews"], shown["checkpoints"]) == (4, [2, 10], [2])
        score = {"label": "deft", "subject": "duck", "metric": "CLIP-I", "value": 0.625, "images": 2}
        assert shown["scores"] == [score]
        (problem,) = shown["problems"]
        assert problem.startswith("scores.jsonl, line 2, is not a score")
        status, headers, data = ask(server, f"{prefix}{RUNS}/{run['id']}/previews/10")
        assert (status, headers["Content-Type"], data) == (200, "image/jpeg", JPEG)
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_damaged_run_is_shown_as_far_as_it_goes(server: Any, outside: Path) -> None:
    run = listed(server)[f"damaged_{MARK}"]
    shown = server.get(f"{RUNS}/{run['id']}")
    assert (shown["state"], shown["step"], shown["scores"], shown["previews"]) == ("unknown", 0, [], [10])
    assert [each.partition(" ")[0] for each in shown["problems"]] == ["log.jsonl:", "run.json", "scores.jsonl,"]
    assert ask(server, f"{RUNS}/{run['id']}/previews/2")[0] == 404


def test_nothing_outside_is_shown(server: Any, outside: Path) -> None:
    run = listed(server)[f"duck_{MARK}"]["id"]
    secret = f"beside/secret_{MARK}/preview_00000002.jpg"
    asked = [
        f"{RUNS}/../../beside/secret_{MARK}",
        f"{RUNS}/..%2f..%2fbeside%2fsecret_{MARK}",
        f"{RUNS}/%2e%2e/%2e%2e/{secret}",
        f"{RUNS}/{run}/previews/../run.json",
        f"{RUNS}/{run}/previews/%2e%2e%2frun.json",
        f"{RUNS}/{run}/previews/2%00",
        f"{RUNS}/{run}/previews/-2",
        f"{RUNS}/{run}/previews/3",
        f"{RUNS}/{run}/previews/99999999999999999999",
        f"{RUNS}/{run}/previews/{quote(str(outside.parent / secret))}",
        f"{RUNS}/{run}/log.jsonl",
        f"{RUNS}/{run[:-1]}",
        f"{RUNS}/{'0' * 16}",
        f"{RUNS}/{run.upper()}" if run.upper() != run else f"{RUNS}/G",
        f"{RUNS}/duck_{MARK}",
        f"{RUNS}/%00",
        f"{RUNS}/C:%5Cwindows",
        f"{RUNS}//etc/passwd",
        f"{RUNS}/{'a' * 200}",
    ]
    for path in asked:
        status, _, data = ask(server, path)
        assert status in (400, 404), path
        assert b"SECRET" not in data
        assert str(server.base).encode() not in data, path
    names = {entry["name"] for entry in server.get(RUNS)["runs"]}
    assert not any("secret" in name or "linked" in name for name in names)


def test_nothing_can_be_changed(server: Any, outside: Path) -> None:
    run = listed(server)[f"duck_{MARK}"]["id"]
    for path in (RUNS, f"{RUNS}/{run}", f"{RUNS}/{run}/previews/2"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert ask(server, path, method, Content_Length="0")[0] in (404, 405), (path, method)
    assert ask(server, RUNS, Sec_Fetch_Site="cross-site")[0] == 403  # ComfyUI's own check is there


def test_the_server_goes_on(server: Any, outside: Path) -> None:
    assert server.get("/system_stats")["system"]
    assert "Traceback" not in server.log_tail()


def test_the_protocols_that_are_ready(server: Any) -> None:
    """The same protocols as Load Scorer names; the demo's needs nothing else."""
    _, headers, body = ask(server, "/deft/v1/protocols")
    assert headers["Cache-Control"] == "no-store"
    prompt = {
        "1": {
            "class_type": "DEFTLoadScorer",
            "inputs": {"protocol": "demo", "device": "auto", "precision": "auto", "download": False},
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }
    report = str(server.run(prompt).outputs["2"])
    (names,) = re.findall(r"Protocols that are ready on this machine: ([^'\"]+)\.", report)
    assert json.loads(body) == {"ready": names.split(", ")}
    assert "demo" in json.loads(body)["ready"]
