"""What a study of very many variants costs beside its computing: a simulated one, whose stages only wait.

    python -m benchmarks.scaling [--variants 1000] [--processes 4] [--stub-seconds 1] [--only stages,prefect,results]

Three things are measured, each with this project's own programs, in temporary folders and on this machine alone:

    stages    the graph of dvc.yaml with stages that wait and write a small file, through `python -m flows.local`: with
              many workers and with one, and what is left running afterwards (nothing may be)
    prefect   what a server on loopback takes to accept parts and stages
    results   the report, the mirror to MLflow (SQLite), the same with nothing new, and the first page of MLflow's list,
              for half as many and for as many rows, whose figures are made up (tests/helpers/synthetic.py)

The stages of a variant are two, prune and quality: what measures runs alone and gains nothing from workers. It prints
a table for docs/scaling.md. Durations are of this machine, nothing is asserted by them.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import stub_study
from benchmarks.commands import SERVER_SECONDS, Cost, run, served
from prunelab.efficiency import device
from prunelab.errors import InputError, exit_cleanly
from tests.helpers import loopback, synthetic, workspace

MARK = "PRUNELAB_SCALING"  # an environment variable that everything started here carries: how orphans are known
SETTLE_SECONDS = 3.0  # for what ends by itself after a command has ended
SUBMISSIONS = 100  # parts and stages that Prefect is given
PAGE_ROWS = 100  # runs that MLflow's interface asks for at once
PAGES = 5  # times that its first page is asked for; the median counts
PARTS = ("stages", "prefect", "results")


class Figure(NamedTuple):
    what: str
    value: str
    wanted: str = ""  # where such a figure was set beforehand


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", type=int, default=1000, help="pruned variants (default: 1000)")
    parser.add_argument("--processes", type=int, default=4, help="stages side by side (default: 4)")
    parser.add_argument("--stub-seconds", type=float, default=1.0, help="how long a stage of a variant waits (1)")
    parser.add_argument("--only", default=",".join(PARTS), help=f"which parts (default: {','.join(PARTS)})")
    arguments = parser.parse_args(argv)
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise InputError(f"--only {arguments.only}: expected some of {','.join(PARTS)}, found {', '.join(unknown)}")
    if arguments.processes < 1 or arguments.stub_seconds < 0:
        raise InputError("--processes must be at least 1, --stub-seconds at least 0")
    stub_study.shape(arguments.variants)  # a number that cannot be is told at once
    os.environ[MARK] = uuid.uuid4().hex
    measure = {
        "stages": lambda at: stages(at, arguments.variants, arguments.processes, arguments.stub_seconds),
        "prefect": lambda at: prefect(at, min(SUBMISSIONS, arguments.variants)),
        "results": lambda at: [
            figure for n in sorted({max(1, arguments.variants // 2), arguments.variants}) for figure in results(at, n)
        ],
    }
    print(f"On {machine()}:\n")
    for part in (name for name in PARTS if name in wanted):
        with tempfile.TemporaryDirectory(prefix="prunelab-scaling-") as folder:
            print(table(measure[part](Path(folder))), flush=True)


def machine() -> str:
    """The machine in words: processor, cores, memory; not its name, which says nothing to others."""
    found = device.fingerprint()
    return f"{found['cpu']}, {found['cores']:g} cores, {found['memory_gb']} GB, Python {found['python']}"


def table(figures: list[Figure]) -> str:
    rows = [Figure("figure", "value", "wanted"), Figure("---", "---:", "---"), *figures]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


# ---- the stages ----


def stages(folder: Path, variants: int, processes: int, seconds: float) -> list[Figure]:
    """The study with `processes` workers, then with one, each from nothing."""
    many = stub_study.make(folder / "many", variants, seconds)
    one = Path(shutil.copytree(many, folder / "one", symlinks=True))
    looked = run(many, sys.executable, "-c", "from flows import graph; print(len(graph.look()[0].needs))")
    count, waiting = int(looked.said.split()[-1]), variants * len(stub_study.WAITING)
    side_by_side = study(many, processes, count)
    left = orphans()
    again = run(many, sys.executable, "-m", "flows.local", "--no-table")
    serial = study(one, 1, count)
    left += orphans()
    locks = [(clone / "dvc.lock").read_bytes() for clone in (many, one)]
    own = serial.seconds - waiting * seconds
    return [
        Figure(f"stages of {variants} variants, {waiting} of which wait {seconds:g} s", str(count)),
        Figure("the graph and what of it is to do, from nothing", f"{looked.seconds:.1f} s"),
        Figure("one worker", f"{serial.seconds:.0f} s"),
        Figure(f"{processes} workers", f"{side_by_side.seconds:.0f} s"),
        Figure(f"{processes} workers : one", f"{side_by_side.seconds / serial.seconds:.2f} ×", "0.35 ×"),
        Figure("one worker beside the waiting, a stage", f"{1000 * own / count:.0f} ms"),
        Figure("CPU time of it, a stage", f"{1000 * serial.cpu_seconds / count:.0f} ms"),
        Figure(f"CPU time with {processes} workers, a stage", f"{1000 * side_by_side.cpu_seconds / count:.0f} ms"),
        Figure("processes left behind", str(len(left)), "0"),
        Figure("the same with nothing to do", f"{again.seconds:.1f} s"),
        Figure("dvc.lock", f"{len(locks[0]) / 1e6:.2f} MB"),
        Figure("entries of dvc.lock that hang on the number of workers", str(differing(*locks)), "0"),
    ]


def study(clone: Path, workers: int, count: int) -> Cost:
    """`make study` there; all stages but the probes, of which it tells nothing, must have run."""
    cost = run(clone, sys.executable, "-m", "flows.local", "--no-table", "--workers", str(workers))
    ran = [line for line in cost.said.splitlines() if line.startswith("[")]
    assert len(ran) >= count - 2 and f" {len(ran)} ran, 0 restored" in cost.said, cost.said[-2000:]
    return cost


def differing(one: bytes, other: bytes) -> int:
    """How many stages are in one dvc.lock alone, or hold something else in the other."""
    from flows.lockfile import Entries

    ours, theirs = (Entries(text.decode()) for text in (one, other))
    return sum(_text(ours, name) != _text(theirs, name) for name in {*ours, *theirs})


def _text(entries, name: str) -> str | None:
    start, end = entries.places.get(name, (None, None))
    return None if start is None else entries.text[start:end]


def orphans() -> list[int]:
    """Processes, other than this one, that were started here and still run when everything had time to end."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := _marked()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _marked() -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and process.environ().get(MARK) == os.environ[MARK]:
                found.append(process.pid)
    return found


# ---- Prefect ----


def prefect(folder: Path, count: int) -> list[Figure]:
    """What a server takes for `count` parts and as many stages."""
    port = loopback.closed_port()
    more = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    began = time.perf_counter()
    with served(command, folder, f"{more['PREFECT_API_URL']}/health", more) as answers:
        if not answers:
            return [Figure("Prefect's server", f"did not answer within {SERVER_SECONDS} s")]
        started = time.perf_counter() - began
        said = run(workspace.ROOT, sys.executable, "-m", "benchmarks.submitting", str(count), **more).said
    found = json.loads(said.splitlines()[-1])
    return [
        Figure("Prefect's server, from its start until it answers", f"{started:.0f} s"),
        Figure(f"a part of a study is submitted (mean of {count})", f"{1000 * found['runs'] / count:.0f} ms"),
        Figure(f"a task that does nothing, in a flow (mean of {count})", f"{1000 * found['tasks'] / count:.0f} ms"),
    ]


# ---- report and MLflow ----


def results(folder: Path, variants: int) -> list[Figure]:
    """Report, mirror and MLflow's first page of a finished study of that many pruned variants."""
    clone = folder / str(variants)
    made = stub_study.settings(clone, variants, timed=True)
    synthetic.write(clone, made)
    stub_study.write_lock(clone, made)
    python, given = sys.executable, ["--results", "results", "--models", "models"]
    advised = run(clone, python, "-m", "stages.recommend", *given, "--out", "report")
    advice = ["--recommendation", "report/recommendation.json"]
    reported = run(clone, python, "-m", "stages.report", *given, *advice, "--out", "report")
    page = (clone / "report" / "index.html").stat().st_size
    store = f"sqlite:///{clone / 'mlflow.db'}"
    mirror = [python, "-m", "prunelab.mirror.tracking"]
    mirrored, again = (run(clone, *mirror, MLFLOW_TRACKING_URI=store) for _ in range(2))
    stamp = clone / ".prunelab" / "mirrored.json"
    experiment = json.loads(stamp.read_text(encoding="utf-8"))["experiment"]
    stamp.unlink()  # as on another machine: the store alone tells that it has everything
    elsewhere = run(clone, *mirror, MLFLOW_TRACKING_URI=store)
    assert " 0 there already" in mirrored.said and "already" in again.said and " 0 new runs" in elsewhere.said
    size, wanted = (clone / "mlflow.db").stat().st_size, ("60 s", "5 s") if variants == 500 else ("", "")
    return [
        Figure(f"rows of a study of {variants} variants", str(len(made.seeds) * len(made.variants()))),
        Figure("what to deploy", f"{advised.seconds:.1f} s"),
        Figure("the report", f"{reported.seconds:.1f} s"),
        Figure("its page", f"{page / 1e6:.2f} MB"),
        Figure("the mirror to an empty MLflow", f"{mirrored.seconds:.1f} s", wanted[0]),
        Figure("with nothing new", f"{again.seconds:.1f} s", wanted[1]),
        Figure("with nothing new, but mirrored elsewhere", f"{elsewhere.seconds:.1f} s", wanted[1]),
        Figure("mlflow.db", f"{size / 1e6:.1f} MB"),
        *browse(clone, store, experiment, "3 s" if variants == 500 else ""),
    ]


def browse(folder: Path, store: str, experiment: str, wanted: str) -> list[Figure]:
    """The requests behind MLflow's list of runs, answered by its server."""
    port = loopback.closed_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with served(command, folder, f"{address}/health", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as answers:
        if not answers:
            return [Figure("MLflow's server", f"did not answer within {SERVER_SECONDS} s")]
        first = asked(address, experiment, PAGE_ROWS)
        usual = statistics.median(asked(address, experiment, PAGE_ROWS) for _ in range(PAGES))
        whole = asked(address, experiment, 1000)
    return [
        Figure(f"MLflow's first page ({PAGE_ROWS} runs), the first time", f"{first:.2f} s", wanted),
        Figure(f"MLflow's first page, again (median of {PAGES})", f"{usual:.2f} s", wanted),
        Figure("MLflow's list of 1000 runs at most at once", f"{whole:.2f} s"),
    ]


def asked(address: str, experiment: str, rows: int) -> float:
    """Seconds until the newest `rows` runs have arrived, with all their figures, parameters and tags."""
    wanted = {"experiment_ids": [experiment], "max_results": rows, "order_by": ["attributes.start_time DESC"]}
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/runs/search", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=SERVER_SECONDS) as answer:
        assert json.load(answer)["runs"]
    return time.perf_counter() - began


if __name__ == "__main__":
    exit_cleanly(main)
