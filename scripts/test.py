"""Run the tests, or the named parts of them: style types unit comfy-0.30.0-a comfy-0.30.0-b comfy-0.24.0 server sweeps
install. Everything once; with --all in every combination, and all that ComfyUI 0.24.0 has a part in
(tests/everyday.py).

Three parts run at a time, each in processes of its own: that of the server waits a quarter of its time. Every part's
whole output goes to a log file; what is printed is a line a part, the end of the log of a part that failed, and the
totals.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rooms import ROOMS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))  # after this folder

from tests.preloaded import Preloaded  # noqa: E402

LOGS = Path(os.environ.get("DEFT_TEST_LOGS") or tempfile.mkdtemp(prefix="deft-test-logs-"))
TYPED = (*ROOMS, "benchmarks", "workflow_sources")
# Some forty ComfyUI servers are started: without bytecode each would compile all of ComfyUI and the pack again.
_COMMON = {
    "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
    "DEFT_TEST_LOGS": str(LOGS),
    "PYTHONDONTWRITEBYTECODE": "",
}


# Parts whose process is a fork of one that has imported the libraries (tests/preloaded.py), and the program for each.
FORKED = ("server", "comfy-0.30.0-a", "comfy-0.30.0-b", "sweeps", "unit")
_PYTHONS: dict[str, str] = {}

# CPU seconds of `make test` by file of tests/comfy, for its halves: those of ten and more; each other file has OTHERS.
_COSTS = {
    "test_bases": 42,
    "test_devices": 30,
    "test_training_runs": 23,
    "test_scoring_nodes": 22,
    "test_every_method": 22,
    "test_captions": 22,
    "test_docs_adding": 21,
    "test_checkpoints": 20,
    "test_peft_tuners": 20,
    "test_fuzz_corpus": 18,
    "test_sweep_plans": 18,
    "test_generated": 16,
    "test_api_callers": 16,
    "test_adapter_nodes": 15,
    "test_checkpointing": 15,
    "test_finished_runs": 14,
    "test_training_pictures": 13,
    "test_export": 13,
    "test_reference": 12,
    "test_demo_recipe": 12,
    "test_training_nodes": 11,
    "test_training_recipe": 11,
    "test_trained_companions": 10,
    "test_training": 10,
    "test_textual_inversion": 10,
    "test_preview_scores": 10,
}
OTHERS = 3


@dataclass
class Result:
    """The counts of one part, and its log."""

    part: str
    passed: int
    failed: int
    skipped: list[str]
    seconds: float
    log: Path
    cpu: float = 0.0  # seconds of CPU, of the part's processes that have ended; without forked servers
    repeats: int = 0  # combinations that only --all runs


def environment(*what: str) -> str:
    """The output of scripts/environment.py for these arguments."""
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), *what]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def call(part: str, command: list[str], folder: Path, variables: dict[str, str]) -> tuple[int, float, Path]:
    """Run a command, its output in the part's log; returns exit status, seconds of CPU and the log."""
    log = LOGS / f"{part}.log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime, log


def check(part: str, command: list[str], folder: Path = ROOT) -> Result:
    """A command that passes or fails as a whole."""
    started = time.monotonic()
    status, cpu, log = call(part, command, folder, {})
    return Result(part, int(status == 0), int(status != 0), [], time.monotonic() - started, log, cpu)


def pytest(part: str, files: list[str], variables: dict[str, str] | None = None) -> Result:
    """Run the tests of files in a process of their own and count them by pytest's own report."""
    started = time.monotonic()
    report = LOGS / f"{part}.xml"
    variables = (variables or {}) | ({"DEFT_TEST_FORKS": _PYTHONS[part]} if part in _PYTHONS else {})
    command = [
        _PYTHONS.get(part, sys.executable),
        "-m",
        "pytest",
        "-q",
        "-rfEs",
        "--durations=10",
        f"--junitxml={report}",
        *files,
    ]
    status, _, log = call(part, command, ROOT, variables)
    text = log.read_text(errors="replace")
    passed = failed = 0
    skipped = []
    if report.is_file():
        for case in ElementTree.parse(report).iter("testcase"):
            outcome = {child.tag for child in case}
            if outcome & {"failure", "error"}:
                failed += 1
            elif "skipped" in outcome:
                skipped.append(next(child.get("message", "") for child in case if child.tag == "skipped"))
            else:
                passed += 1
    if status and not failed:  # pytest itself failed, or there was no test
        failed = 1
    counted = re.search(r"^(\d+) combinations only in make test-all$", text, re.M)
    repeats = int(counted[1]) if counted else 0
    used = re.findall(r"^([\d.]+) s of CPU$", text, re.M)
    cpu = float(used[-1]) if used else 0.0
    return Result(part, passed, failed, skipped, time.monotonic() - started, log, cpu, repeats)


def style(part: str) -> Result:
    """Run Ruff over everything: its rules, and its format."""
    ruff = f"{sys.executable} -m ruff"
    return check(part, ["sh", "-c", f"{ruff} check --no-cache . && {ruff} format --no-cache --check ."])


def types(part: str) -> Result:
    """Run mypy over the pack, under a name that Python takes, whatever the checkout's folder is called."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "deft_pack").symlink_to(ROOT, target_is_directory=True)
        packages = [f"-pdeft_pack.{name}" for name in TYPED if (ROOT / name).is_dir()]
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            os.devnull,
            *packages,
        ]
        return check(part, command, Path(folder))


def files_of(part: str) -> list[str]:
    """The test files of a part; the halves of a folder cost about the same."""
    folder = {"sweeps": "server"}.get(part, part.partition("-")[0])
    files = sorted((ROOT / "tests" / folder).glob("test_*.py"))
    if folder == "server":
        files = [path for path in files if path.name.startswith("test_sweep") == (part == "sweeps")]
    if part[-2:] in ("-a", "-b"):
        files = halves(files)["ab".index(part[-1])]
    return [path.relative_to(ROOT).as_posix() for path in files]


def halves(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Files dealt out, those with the highest costs first, each to the half that has cost less until then."""
    dealt: tuple[list[Path], list[Path]] = ([], [])
    spent = [0, 0]
    for path in sorted(files, key=lambda path: (-_COSTS.get(path.stem, OTHERS), path.name)):
        half = spent.index(min(spent))
        dealt[half].append(path)
        spent[half] += _COSTS.get(path.stem, OTHERS)
    return sorted(dealt[0]), sorted(dealt[1])


def unit(part: str) -> Result:
    """Run the tests without ComfyUI."""
    return pytest(part, files_of(part))


def comfy(part: str) -> Result:
    """Run the tests inside ComfyUI, of the version in the part's name; its letter names a half of them."""
    version = part.split("-")[1]
    variables = {"DEFT_TEST_COMFYUI": environment("comfyui", version)}
    if part == "comfy-0.24.0":
        variables["PYTHONPATH"] = environment("pins", version)
    return pytest(part, files_of(part), variables)


def server(part: str) -> Result:
    """Run the tests over a real server, with comfy-cli and with a browser; those of sweeps are a part of their own."""
    oldest = {"DEFT_OLD_COMFYUI": environment("comfyui", "0.24.0"), "DEFT_OLD_PINS": environment("pins", "0.24.0")}
    return pytest(part, files_of(part), {"COMFYUI_DIR": environment("comfyui"), **oldest})


def install(part: str) -> Result:
    """The pack installed by ComfyUI Manager into environments of their own, and the archive for the registry."""
    return pytest(part, files_of(part))


AT_A_TIME = 3
# The longest first.
PARTS = {
    "server": server,
    "comfy-0.30.0-a": comfy,
    "comfy-0.30.0-b": comfy,
    "sweeps": server,
    "unit": unit,
    "comfy-0.24.0": comfy,
    "install": install,
    "types": types,
    "style": style,
}


def main() -> None:
    """Run the parts and print the totals; exit status 1 when anything failed."""
    os.environ.update(_COMMON, DEFT_TEST="all" if "--all" in sys.argv else "everyday")
    names = [name for name in sys.argv[1:] if name != "--all"] or list(PARTS)
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"unknown part {', '.join(unknown)}; there are: {' '.join(PARTS)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    print(f"[test] running {' '.join(names)}, {AT_A_TIME} at a time; logs in {LOGS}", flush=True)
    results = []
    with ExitStack() as stack:
        if forked := set(FORKED) & set(names):
            program = Preloaded(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            _PYTHONS.update(dict.fromkeys(forked, str(stack.enter_context(program).python)))
        pool = stack.enter_context(ThreadPoolExecutor(AT_A_TIME))
        for done in as_completed([pool.submit(PARTS[name], name) for name in names]):
            result = done.result()
            results.append(result)
            counts = f"{result.passed} passed, {result.failed} failed, {len(result.skipped)} skipped"
            print(f"[test] {result.part}: {counts} in {result.seconds:.0f} s, {result.cpu:.0f} s of CPU", flush=True)
            for reason in sorted(set(result.skipped)):
                print(f"[test] {result.part}: left out: {reason}", flush=True)
            if result.failed:
                print("\n".join(result.log.read_text(errors="replace").splitlines()[-60:]), flush=True)
    passed, failed = sum(r.passed for r in results), sum(r.failed for r in results)
    skipped = sum(len(r.skipped) for r in results)
    if repeats := sum(r.repeats for r in results):
        print(f"[test] {repeats} combinations only in make test-all")
    cpu = sum(r.cpu for r in results)
    print(f"[test] {skipped} skipped; {time.monotonic() - started:.0f} s, {cpu:.0f} s of CPU; logs in {LOGS}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
