"""Run a saved workflow with many values, and see what came out. From the pack's folder:

    python -m sweeps plan   PLAN.yaml    the cells, their order, what is done, how long the rest may take
    python -m sweeps run    PLAN.yaml    run what is not done yet; Ctrl-C stops, and the same command goes on
    python -m sweeps status PLAN.yaml    how far it is
    python -m sweeps report PLAN.yaml    tables, grids and a page with all pictures, from the store alone
    python -m sweeps clean  PLAN.yaml    remove what is not needed any more

A plan is described in docs/sweeps.md; sweeps/plans has some to begin with.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .axes import words
from .cells import Cells, Compiler
from .client import Client, Facts, facts_of
from .files import Files, LocalFiles, ServerFiles
from .index import INDEX_FILE, Entry, read_index, write_index
from .plan import Plan, read_plan
from .progress import Progress, describe, duration
from .runner import Result, Runner, run_until_signal
from .server import HOST, Server, find_comfyui
from .store import BEAT, SERVERS, STATUSES, Store
from .worker import Worker
from .workflow import read_workflow

PACK = Path(__file__).resolve().parent.parent
SAMPLE = 50  # records that an estimate looks at
SHOWN = 20  # cells that `plan` prints
FACTS_FILE, REPORT_FILE = "facts.json", "report.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 if all is well, 1 if cells have failed or are missing, 2 with a sentence for bad input."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except BrokenPipeError:  # `| head`
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"sweeps: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sweeps", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, about: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=about, description=about)
        found.add_argument("plan", type=Path, help="the plan (YAML)" if name in ("plan", "run")
                           else "the plan (YAML), or the folder of the store")
        found.add_argument("--store", type=Path, help="the folder of the results; by default output/sweeps/NAME in "
                                                      "ComfyUI's folder")
        found.add_argument("--comfyui", type=Path, help="ComfyUI's folder; by default COMFYUI_DIR, or the one whose "
                                                        "custom_nodes folder holds this pack")
        found.set_defaults(function=function)
        return found

    for name, function, about in (("plan", plan_command, "Print the cells and an estimate; run nothing."),
                                  ("run", run_command, "Run all cells that are not in the store.")):
        found = command(name, function, about)
        found.add_argument("--server", action="append", default=[], metavar="URL",
                           help="a running ComfyUI, such as http://127.0.0.1:8188; may be given several times. Without "
                                "it, one is started and ended")
        found.add_argument("--comfyui-args", default="", metavar="TEXT",
                           help="more words of ComfyUI's command line for servers that are started, as one text: "
                                "--comfyui-args=\"--lowvram --fast\"")
        found.add_argument("--join", action="store_true", help="use the store of another plan, too")
        if name == "plan":
            found.add_argument("--offline", action="store_true",
                               help="ask no server, but use what the store remembers of one")
            found.add_argument("--all", action="store_true", help=f"print all cells, not only the first {SHOWN}")
        else:
            found.add_argument("--workers", type=int, default=1, metavar="N", help="how many servers to start here")
            found.add_argument("--ray", nargs="?", const="auto", metavar="ADDRESS",
                               help="run on a Ray cluster, one ComfyUI a GPU (needs the package ray)")
            found.add_argument("--ray-workers", type=int, metavar="N",
                               help="with --ray: at most N of them; by default one a GPU, or one for every four CPUs "
                                    "where the cluster has no GPU")
            found.add_argument("--quiet", action="store_true", help="print only what goes wrong")
    command("status", status_command, "Say how far the sweep is.")
    found = command("report", report_command, "Write tables, grids and a page with all pictures.")
    found.add_argument("--rows", help="axes of the tables' rows, divided by commas")
    found.add_argument("--columns", help="axes of the tables' columns; by default the metrics stand there")
    found.add_argument("--metrics", help="only these metrics, divided by commas")
    found.add_argument("--picture", help="title of the output node whose pictures the grid shows")
    found.add_argument("--grid-rows", help="axes of the grid's rows")
    found.add_argument("--grid-columns", help="axes of the grid's columns")
    found.add_argument("--out", type=Path, help="the folder to write; by default report in the store")
    found = command("clean", clean_command, "Remove failed and cancelled cells and what was left behind.")
    found.add_argument("--unused", action="store_true", help="also cells that no plan of the store has any more")
    found.add_argument("--yes", action="store_true", help="do it; without this it is only said what would be removed")
    return parser


# plan and run


def plan_command(options: argparse.Namespace) -> int:
    """Compile the plan and print it."""
    plan = read_plan(options.plan)
    folder = _store_folder(options, plan.name)
    store = Store.open(folder) if options.offline else Store.open(folder, plan.name, options.join)

    async def compile_() -> tuple[Compiler, Cells]:
        if options.offline:
            return compiled(plan, _remembered(store, plan.name), "", store)
        if options.server:
            async with Client(options.server[0]) as client:
                facts = await facts_of(client)
                return await asyncio.to_thread(compiled, plan, facts, options.server[0], store)
        async with _own_servers(options, store, 1) as workers:
            await workers[0].start()
            facts = workers[0].facts
            await workers[0].stop()
        return compiled(plan, facts, "", store)

    compiler, cells = asyncio.run(compile_())
    print_plan(compiler, cells, store, options.all)
    return 0


def run_command(options: argparse.Namespace) -> int:
    """Run the plan."""
    plan = read_plan(options.plan)
    store = Store.open(_store_folder(options, plan.name), plan.name, options.join)
    progress = Progress(quiet=options.quiet)

    async def run() -> Result:
        async with _workers(options, store) as workers:
            if not options.server:
                progress.say("starting ComfyUI")
            workers = await _started(workers, progress)
            compiler, cells = await asyncio.to_thread(compiled, plan, workers[0].facts, "" if not options.server
                                                      else options.server[0], store,
                                                      getattr(workers[0], "files", None))
            for remark in cells.remarks:
                progress.say(remark)
            return await run_until_signal(Runner(compiler, cells, store, workers, progress))

    result = asyncio.run(run())
    counts = result.counts
    if not options.quiet:
        print(f"{counts['done']} done, {counts['failed']} failed, {counts['cancelled']} cancelled"
              + (f", {result.blocked} left out because their training was not made" if result.blocked else "")
              + (f", {result.elsewhere} by other runners" if result.elsewhere else "")
              + f"; the results are in {store.root}")
    if result.stopped:
        print(f"sweeps: {result.stopped}", file=sys.stderr)
    return 1 if result.stopped or result.blocked or counts["failed"] or counts["cancelled"] else 0


def compiled(plan: Plan, facts: Facts, url: str, store: Store, files: Files | None = None) -> tuple[Compiler, Cells]:
    """The cells of a plan on a server, kept in the store for `status` and `report`.

    files: how to tell the server's files apart, if it is neither here nor at a URL.

    Raises ValueError that names the plan and what is wrong with it.
    """
    try:
        files = files or _files(facts, url)
        compiler = Compiler(plan, read_workflow(plan.workflow, facts.info), facts.info, files, not url)
        cells = compiler.cells()
    except ValueError as error:
        raise ValueError(f"{plan.source}: {error}") from error
    store.write_plan(plan.name, {
        INDEX_FILE: write_index(compiler, cells), "plan.yaml": plan.source.read_bytes(),
        REPORT_FILE: json.dumps(plan.report).encode(),
        FACTS_FILE: json.dumps({"info": facts.info, "stats": facts.stats,
                                "models": list(map(str, facts.models))}).encode()})
    return compiler, cells


def _remembered(store: Store, plan: str) -> Facts:
    data = json.loads(store.plan_file(plan, FACTS_FILE))
    return Facts(data["info"], data["stats"], [Path(folder) for folder in data["models"]])


def _files(facts: Facts, url: str) -> Files:
    """How to tell the server's files apart: by looking at them where they are here, else by asking."""
    here = any(folder.is_dir() for folder in facts.models)  # a container's folders are not here, whatever its address
    if not url or (here and urlsplit(url).hostname in (HOST, "localhost", "::1")):
        return LocalFiles(facts.models, facts.places)

    def get(path: str, query: Any) -> bytes | None:
        async def ask() -> bytes | None:
            async with Client(url) as client:
                return await client.get_bytes(path, **query)

        return asyncio.run(ask())

    return ServerFiles(get)


@contextlib.asynccontextmanager
async def _workers(options: argparse.Namespace, store: Store) -> AsyncIterator[list[Any]]:
    """The servers that a run uses, not started yet."""
    if options.ray:
        from .remote import ray_workers

        async with ray_workers(options.ray, options.comfyui, shlex.split(options.comfyui_args), store.root,
                               options.ray_workers) as found:
            yield found
    elif options.server:
        given = [Worker(url, url) for url in options.server]
        try:
            yield given
        finally:
            for worker in given:
                await worker.stop()
    else:
        async with _own_servers(options, store, max(1, options.workers)) as own:
            yield own


@contextlib.asynccontextmanager
async def _own_servers(options: argparse.Namespace, store: Store, count: int) -> AsyncIterator[list[Worker]]:
    """Servers of our own, each in a work folder that no other runner uses; ended afterwards."""
    comfyui = find_comfyui(PACK, options.comfyui)
    arguments = shlex.split(options.comfyui_args)
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        if store.claim(f"server-{number}"):
            names.append(f"server-{number}")
    workers = [Worker(name, server=Server(comfyui, store.root / "work" / name, arguments)) for name in names]
    beat = asyncio.create_task(_keep_alive(store, names))
    try:
        yield workers
    finally:
        beat.cancel()
        for worker in workers:
            await worker.stop()
            if worker.server is not None:
                worker.server.tidy()
        for name in names:
            store.release(name)


async def _started(workers: Sequence[Any], progress: Progress) -> list[Any]:
    """Those workers that come up, started side by side. Raises what the first one says if none does."""
    outcomes = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if len(errors) == len(workers):
        raise errors[0]
    for error in errors:
        progress.say(f"a server is out: {error}")
    return [worker for worker, outcome in zip(workers, outcomes) if not isinstance(outcome, BaseException)]


async def _keep_alive(store: Store, names: list[str]) -> None:
    while True:
        await asyncio.sleep(BEAT)
        store.beat(names)


def print_plan(compiler: Compiler, cells: Cells, store: Store, every: bool) -> None:
    """Cells, order, what is done, and how long the rest may take."""
    plan, done = compiler.plan, store.keys("done")
    print(f"{plan.name}: {plan.about}" if plan.about else plan.name)
    for axis in plan.axes:
        labels = [value.label for value in axis.values]
        print(f"  {axis.name}: {len(labels)} ({_shortened(labels)})")
    if plan.axes:
        print("  slowest to fastest: " + ", ".join(plan.axes[index].name for index in compiler.axis_order()))
    pictures = {cell.key: cell for cell in reversed(cells.pictures)}  # of equal ones the first
    pictures = dict(reversed(pictures.items()))
    for what, keys in (("training", list(cells.trainings)), ("picture", list(pictures))):
        if keys or what == "picture":
            ready = sum(key in done for key in keys)
            print(f"  {len(keys)} {what} cells, {ready} of them in the store")
    if len(pictures) < len(cells.pictures):
        print(f"  {len(cells.pictures)} combinations, some of which are the same cell")
    for remark in cells.remarks:
        print(f"  {remark}")
    shown = list(pictures.values()) if every else list(pictures.values())[:SHOWN]
    trained: set[str] = set()
    for cell in shown:
        for key in cell.needs:
            if key not in trained:
                trained.add(key)
                training = cells.trainings[key]
                print(f"    {'done' if key in done else '    '} train  {describe(compiler.labels_of(training))}")
        print(f"    {'done' if cell.key in done else '    '} sample {describe(compiler.labels_of(cell))}")
    if len(shown) < len(pictures):
        print(f"    ... and {len(pictures) - len(shown)} more (--all)")
    left = {"training": [key for key in cells.trainings if key not in done],
            "picture": [key for key in pictures if key not in done]}
    print(f"  estimate: {_estimate(store, cells, done, left)}")


def _shortened(labels: Sequence[str]) -> str:
    text = ", ".join(label if len(label) < 40 else f"{label[:37]}..." for label in labels[:6])
    return text + (", ..." if len(labels) > 6 else "")


def _estimate(store: Store, cells: Cells, done: set[str], left: dict[str, list[str]]) -> str:
    """From the medians of the cells that are in the store; for one server."""
    if not any(left.values()):
        return "everything is done"
    known = {"training": [key for key in cells.trainings if key in done],
             "picture": [cell.key for cell in cells.pictures if cell.key in done]}
    total, unknown = 0.0, []
    for kind, keys in left.items():
        if keys:
            records = [store.read(key) for key in known[kind][:: max(1, len(known[kind]) // SAMPLE)]]
            seconds = [record.run.seconds for record in records if record]
            if seconds:
                total += statistics.median(seconds) * len(keys)
            else:
                unknown.append(kind)
    if unknown:
        return f"not known yet: no {' and no '.join(unknown)} cell of this plan has been run"
    return f"{duration(total)} on one server, by the cells that are done"


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
    entries = read_index(store.plan_file(name, INDEX_FILE))
    status = {key: each for each in reversed(STATUSES) for key in store.keys(each)}
    missing = 0
    print(f"{name} in {store.root}")
    for kind in ("training", "picture"):
        keys = {entry.key for entry in entries if entry.kind == kind}
        if keys:
            counts = Counter(status.get(key, "not run") for key in keys)
            missing += len(keys) - counts["done"]
            rest = ", ".join(f"{counts[each]} {each}" for each in ("failed", "cancelled", "not run") if counts[each])
            print(f"  {kind}: {counts['done']} of {len(keys)} done" + (f"; {rest}" if rest else ""))
    for claim, owner in store.claims():
        if owner and not claim.startswith(SERVERS):
            print(f"  running: {claim[:12]} by {owner}")
    failed = [entry for entry in entries if status.get(entry.key) == "failed"]
    for entry in failed[:10]:
        record = store.read(entry.key)
        if record:
            print(f"  failed: {describe(entry.labels)}\n    {record.run.error.splitlines()[0]}")
    if len(failed) > 10:
        print(f"  ... and {len(failed) - 10} more failed cells; the report has all of them")
    return 1 if missing else 0


def report_command(options: argparse.Namespace) -> int:
    """Write the report from the store."""
    from .report import Layout, Wanted, write_report

    store, name = _opened(options)
    entries = read_index(store.plan_file(name, INDEX_FILE))
    layout: dict[str, Any] = json.loads(store.plan_file(name, REPORT_FILE))
    for word in ("rows", "columns", "metrics", "grid_rows", "grid_columns"):
        chosen = getattr(options, word)
        layout[word] = tuple(words(layout.get(word)) if chosen is None else _split(chosen))
    if options.picture is not None:
        layout["picture"] = options.picture
    out = options.out or store.root / "report"
    written = write_report([_wanted(Wanted, store, entry) for entry in entries], out, name, Layout(**layout))
    print("\n".join(f"wrote {path}" for path in written))
    return 0


def _wanted(kind: Any, store: Store, entry: Entry) -> Any:
    return kind(entry.key, entry.labels, entry.kind, lambda: store.read(entry.key))


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def clean_command(options: argparse.Namespace) -> int:
    """Remove failed and cancelled cells, what was being written, work folders, dead claims, and unused cells."""
    store, _ = _opened(options)
    claims = dict(store.claims())
    living = {name for name, owner in claims.items() if owner}
    keys: dict[Any, set[str]] = {status: store.keys(status) - living for status in ("failed", "cancelled")}
    if options.unused:
        used = {entry.key for name in store.plans() for entry in read_index(store.plan_file(name, INDEX_FILE))}
        keys["done"] = store.keys("done") - used - living
    folders = [] if living else [store.root / "tmp", store.root / "work"]
    folders = [folder for folder in folders if folder.is_dir()]
    dead = [name for name, owner in claims.items() if not owner]
    size = sum(_size(store.folder(key, status)) for status, every in keys.items() for key in every)
    size += sum(map(_size, folders))
    words = [f"{len(every)} {'unused' if status == 'done' else status} cells" for status, every in keys.items()]
    print(f"{', '.join(words)}, {len(dead)} dead claims, {len(folders)} folders of unfinished work: "
          f"{size / 2**20:.1f} MiB")
    if living:
        print("  a runner is at work in this store, so its folders are left alone")
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


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

