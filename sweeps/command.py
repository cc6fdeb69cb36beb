"""Run a saved workflow with many values, and see what came out. From the pack's folder:

    python -m sweeps plan   PLAN.yaml    the cells, their order, what is done, how long the rest may take
    python -m sweeps run    PLAN.yaml    run what is not done yet; Ctrl-C stops, and the same command goes on
    python -m sweeps status PLAN.yaml    how far it is
    python -m sweeps report PLAN.yaml    tables, grids and a page with all pictures, from the store alone
    python -m sweeps clean  PLAN.yaml    remove what is not needed any more
    python -m sweeps peft   PHOTOS FILE  make what the plan peft_benchmark.yaml needs out of PEFT's own files

A plan is described in docs/sweeps.md; sweeps/plans has some to begin with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..disk.errors import described
from .access import API_KEY, PASSWORD, TOKEN, access_to
from .cells import Compiler
from .index import INDEX_FILE, IndexEntry, read_index
from .launch import PACK, REPORT_FILE, Launch, compiled, end_orphans, files_of, remembered, started, workers_of
from .plan import read_plan
from .plan_file import words
from .planned import Cells
from .preview import SHOWN, print_plan
from .progress import SweepProgress, describe
from .runner import Runner, SweepResult, run_until_signal
from .server import find_comfyui
from .store import SERVERS, STATUSES, Store


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 if all is well, 1 if cells have failed or are missing, 2 with a sentence for bad input."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except BrokenPipeError:  # `| head`
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"sweeps: {described(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, about: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=about, description=about)
        subparser.add_argument(
            "plan",
            type=Path,
            help="the plan (YAML)" if name in ("plan", "run") else "the plan (YAML), or the folder of the store",
        )
        subparser.add_argument(
            "--store", type=Path, help="the folder of the results; by default output/sweeps/NAME in ComfyUI's folder"
        )
        subparser.add_argument(
            "--comfyui",
            type=Path,
            help="ComfyUI's folder; by default COMFYUI_DIR, or the one whose custom_nodes folder holds this pack",
        )
        subparser.set_defaults(function=function)
        return subparser

    for name, function, about in (
        ("plan", plan_command, "Print the cells and an estimate; run nothing."),
        ("run", run_command, "Run all cells that are not in the store."),
    ):
        subparser = command(name, function, about)
        subparser.add_argument(
            "--server",
            action="append",
            default=[],
            metavar="URL",
            help="a running ComfyUI, such as http://127.0.0.1:8188; may be given several times. Without "
            "it, one is started and ended",
        )
        subparser.add_argument(
            "--header",
            action="append",
            default=[],
            metavar="TEXT",
            help='sent with every request to the servers, such as "X-Access: ${MY_KEY}", where ${MY_KEY} stands for a '
            f"variable of the environment. Of these, {TOKEN} is sent as a bearer token, {API_KEY} as X-API-Key, and "
            f"{PASSWORD} is the password of a user in an address",
        )
        subparser.add_argument(
            "--certificate",
            type=Path,
            metavar="FILE",
            help="certificates (PEM) that https servers may have besides those that this machine trusts",
        )
        subparser.add_argument(
            "--comfyui-args",
            default="",
            metavar="TEXT",
            help="more options of ComfyUI's command line for the servers that are started, as one text: "
            '--comfyui-args="--lowvram --fast"',
        )
        subparser.add_argument("--join", action="store_true", help="use the store of another plan, too")
        if name == "plan":
            subparser.add_argument(
                "--offline",
                action="store_true",
                help="use what the store has recorded of a server instead of asking one",
            )
            subparser.add_argument("--all", action="store_true", help=f"print all cells, not only the first {SHOWN}")
        else:
            subparser.add_argument("--workers", type=int, default=1, metavar="N", help="how many servers to start here")
            subparser.add_argument(
                "--ray",
                nargs="?",
                const="auto",
                metavar="ADDRESS",
                help="run on a Ray cluster, one ComfyUI a GPU (needs the package ray)",
            )
            subparser.add_argument(
                "--ray-workers",
                type=int,
                metavar="N",
                help="with --ray: at most N of them; by default one a GPU, or one for every four CPUs "
                "where the cluster has no GPU",
            )
            subparser.add_argument("--quiet", action="store_true", help="print only what goes wrong")
    command("status", status_command, "Print the progress of the sweep.")
    subparser = command("report", report_command, "Write tables, grids and a page with all pictures.")
    subparser.add_argument("--rows", help="axes of the tables' rows, separated by commas")
    subparser.add_argument("--columns", help="axes of the tables' columns; by default the metrics")
    subparser.add_argument("--metrics", help="only these metrics, separated by commas")
    subparser.add_argument("--picture", help="title of the output node whose pictures the grid shows")
    subparser.add_argument("--grid-rows", help="axes of the grid's rows")
    subparser.add_argument("--grid-columns", help="axes of the grid's columns")
    subparser.add_argument("--published", help="a published table that the scores are set beside")
    subparser.add_argument("--out", type=Path, help="the folder to write; by default report in the store")
    subparser = command("clean", clean_command, "Remove failed and cancelled cells and what was left behind.")
    subparser.add_argument("--unused", action="store_true", help="also cells that no plan of the store has any more")
    subparser.add_argument("--damaged", action="store_true", help="also done cells whose record cannot be read")
    subparser.add_argument("--yes", action="store_true", help="remove them; without this option they are only listed")
    about = "Make what sweeps/plans/peft_benchmark.yaml needs out of the photos and texts of PEFT's image benchmark."
    subparser = commands.add_parser("peft", help=about, description=about)
    subparser.add_argument("photos", type=Path, help="the folder of its photos, with names in the data set's order")
    subparser.add_argument("parameters", type=Path, help="its default_training_params.json")
    subparser.add_argument("--input", type=Path, help="ComfyUI's input folder; by default that of --comfyui")
    subparser.add_argument(
        "--prompts",
        type=Path,
        default=PACK / "sweeps" / "plans" / "peft_benchmark_prompts.csv",
        help="the CSV file to write; by default beside the plan",
    )
    subparser.add_argument("--comfyui", type=Path, help="ComfyUI's folder, found as for the other commands")
    subparser.set_defaults(function=peft_command)
    return parser


def peft_command(options: argparse.Namespace) -> int:
    """Prepare PEFT's benchmark."""
    from .ready.peft_benchmark import prepare

    inputs = options.input or find_comfyui(PACK, options.comfyui) / "input"
    print("\n".join(prepare(options.photos, options.parameters, inputs, options.prompts)))
    return 0


# plan and run


def plan_command(options: argparse.Namespace) -> int:
    """Compile the plan and print it."""
    plan = read_plan(options.plan)
    folder = _store_folder(options, plan.name)
    store = Store.open(folder) if options.offline else Store.open(folder, plan.name, options.join)

    async def compile_() -> tuple[Compiler, Cells]:
        if options.offline:
            return compiled(plan, remembered(store, plan.name), store)
        async with workers_of(_launch(options), store) as workers:
            await workers[0].start()
            files = files_of(workers[0])
            return await asyncio.to_thread(compiled, plan, workers[0].facts, store, files)

    compiler, cells = asyncio.run(compile_())
    print_plan(compiler, cells, store, options.all)
    return 0


def _launch(options: argparse.Namespace) -> Launch:
    arguments = shlex.split(options.comfyui_args)
    if (options.header or options.certificate) and not options.server:
        raise ValueError("--header and --certificate are for servers at an address: name one with --server.")
    servers = [access_to(url, options.header, os.environ, options.certificate) for url in options.server]
    for access in servers:
        access.tls()  # before anything is started
    if options.function is plan_command:
        return Launch(servers, options.comfyui, arguments)
    return Launch(servers, options.comfyui, arguments, options.workers, options.ray or "", options.ray_workers)


def run_command(options: argparse.Namespace) -> int:
    """Run the plan."""
    plan = read_plan(options.plan)
    store = Store.open(_store_folder(options, plan.name), plan.name, options.join)
    progress = SweepProgress(quiet=options.quiet)
    store.tidy()
    for line in end_orphans(store):
        progress.log(line)

    async def run() -> SweepResult:
        async with workers_of(_launch(options), store) as workers:
            if not options.server:
                progress.log("starting ComfyUI")
            workers = await started(workers, progress)
            compiler, cells = await asyncio.to_thread(
                compiled,
                plan,
                workers[0].facts,
                store,
                files_of(workers[0]),
                all(worker.facts.embeddings for worker in workers),
            )
            for remark in cells.remarks:
                progress.log(remark)
            return await run_until_signal(Runner(compiler, cells, store, workers, progress))

    try:
        result = asyncio.run(run())
    finally:
        progress.close()
    counts = result.counts
    if not options.quiet:
        print(
            f"{counts['done']} done, {counts['failed']} failed, {counts['cancelled']} cancelled"
            + (f", {result.blocked} skipped because their training did not finish" if result.blocked else "")
            + (f", {result.elsewhere} by other runners" if result.elsewhere else "")
            + f"; the results are in {store.root}"
        )
    if result.stopped:
        print(f"sweeps: {result.stopped}", file=sys.stderr)
    return 1 if result.stopped or result.blocked or counts["failed"] or counts["cancelled"] else 0


# status, report, clean


def _opened(options: argparse.Namespace) -> tuple[Store, str]:
    """The store and the name of the plan, from a plan's file or from the store's folder."""
    if options.plan.is_dir():
        store = Store.open(options.plan)
        return store, store.plans()[0]
    plan = read_plan(options.plan)
    return Store.open(_store_folder(options, plan.name)), plan.name


def _store_folder(options: argparse.Namespace, name: str) -> Path:
    if options.store:
        return Path(options.store)
    try:
        return find_comfyui(PACK, options.comfyui) / "output" / "sweeps" / name
    except ValueError as error:
        raise ValueError(f"no folder for the results is known: name one with --store ({error})") from error


def status_command(options: argparse.Namespace) -> int:
    """Count the cells of the plan by what became of them."""
    store, name = _opened(options)
    entries = store.read_plan_file(name, INDEX_FILE, read_index)
    status = {key: each for each in reversed(STATUSES) for key in store.keys(each)}
    missing = 0
    print(f"{name} in {store.root}")
    for kind in ("training", "picture"):
        keys = {entry.key for entry in entries if entry.kind == kind}
        if keys:
            counts = Counter(status.get(key, "not run") for key in keys)
            missing += len(keys) - counts["done"]
            unfinished = ", ".join(
                f"{counts[each]} {each}" for each in ("failed", "cancelled", "not run") if counts[each]
            )
            print(f"  {kind}: {counts['done']} of {len(keys)} done" + (f"; {unfinished}" if unfinished else ""))
    for claim, owner in store.claims():
        if owner and not claim.startswith(SERVERS):
            print(f"  running: {claim[:12]} by {owner}")
    failed = [entry for entry in entries if status.get(entry.key) == "failed"]
    for entry in failed[:10]:
        try:
            record = store.read(entry.key)
            error = record.run.error if record else None
        except ValueError as damage:
            error = str(damage)
        if error is not None:
            print(f"  failed: {describe(entry.labels)}\n    {next(iter(error.splitlines()), '')}")
    if len(failed) > 10:
        print(f"  ... and {len(failed) - 10} more failed cells; the report has all of them")
    return 1 if missing else 0


def report_command(options: argparse.Namespace) -> int:
    """Write the report from the store."""
    from .report import Layout, ReportCell, write_report

    store, name = _opened(options)
    entries = store.read_plan_file(name, INDEX_FILE, read_index)
    kept = store.read_plan_file(name, REPORT_FILE, lambda data: dict(json.loads(data)))
    layout: dict[str, Any] = {field.name: kept[field.name] for field in fields(Layout) if field.name in kept}
    for word in ("rows", "columns", "metrics", "grid_rows", "grid_columns"):
        chosen = getattr(options, word)
        layout[word] = tuple(words(layout.get(word)) if chosen is None else _split(chosen))
    for word in ("picture", "published"):
        if (given := getattr(options, word)) is not None:
            layout[word] = given
    out = options.out or store.root / "report"
    written = write_report([_report_cell(ReportCell, store, entry) for entry in entries], out, name, Layout(**layout))
    print("\n".join(f"wrote {path}" for path in written))
    return 0


def _report_cell(kind: Any, store: Store, entry: IndexEntry) -> Any:
    return kind(entry.key, entry.labels, entry.kind, lambda: store.read(entry.key))


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def clean_command(options: argparse.Namespace) -> int:
    """Remove failed and cancelled cells, what was being written, work folders, dead claims, unused, damaged cells."""
    store, _ = _opened(options)
    claims = dict(store.claims())
    living = {name for name, owner in claims.items() if owner}
    unused: set[str] = set()
    damaged: set[str] = set()
    keys: dict[Any, set[str]] = {status: store.keys(status) - living for status in ("failed", "cancelled")}
    if options.unused:
        used = {entry.key for name in store.plans() for entry in store.read_plan_file(name, INDEX_FILE, read_index)}
        unused = store.keys("done") - used - living
    if options.damaged:
        damaged = {key for key in store.keys("done") - living if _is_damaged(store, key)}
    keys["done"] = unused | damaged
    folders = [] if living else [store.root / "tmp", store.root / "work"]
    folders = [folder for folder in folders if folder.is_dir()]
    dead = [name for name, owner in claims.items() if not owner]
    size = sum(_size(store.folder(key, status)) for status, every in keys.items() for key in every)
    size += sum(map(_size, folders))
    counts = {"failed": keys["failed"], "cancelled": keys["cancelled"]}
    counts |= {"unused": unused} if options.unused else {}
    counts |= {"damaged": damaged} if options.damaged else {}
    words = [f"{len(every)} {what} cells" for what, every in counts.items()]
    print(
        f"{', '.join(words)}, {len(dead)} dead claims, {len(folders)} folders of unfinished work: "
        f"{size / 2**20:.1f} MiB"
    )
    if living:
        print("  a runner is at work in this store, so its folders are not touched")
    if not options.yes:
        print("  nothing is removed without --yes")
        return 0
    for status, every in keys.items():
        for key in every:
            store.forget(key, (status,))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for name in dead:
        (store.root / "claims" / name).unlink(missing_ok=True)
    print("  removed")
    return 0


def _is_damaged(store: Store, key: str) -> bool:
    try:
        return store.read(key) is None
    except ValueError:
        return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
