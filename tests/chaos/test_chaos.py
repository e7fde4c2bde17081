"""Everything killed with -9 at random moments of a real study, one time after the other: the next run ends the same.

`make test-chaos` kills the smoke study ten times; the ordinary tests kill a smaller one once. The moments are drawn
from PRUNELAB_CHAOS_SEED, which a failure names.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from prunelab.disk.files import sha256_file
from tests.helpers import workspace

SEED = int(os.environ.get("PRUNELAB_CHAOS_SEED", time.time_ns() % 10_000))
# What a study finds, whatever the machine measures: models, qualities, what text does inside a model.
FOUND = (
    "models/s1/*/*.safetensors",
    "models/s1/*/sparsity.json",
    "results/s1/*/quality.json",
    "results/s1/*/*.safetensors",
)


def found(folder: Path) -> dict[str, str]:
    """The hash of every file that holds a result."""
    files = sorted(path for pattern in FOUND for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


# Of the smoke study one row that is pruned.
SMALL = {"prune": {"methods": ["magnitude"], "further": []}, "deploy": {"variant": "dense"}}


def clone(folder: Path, overrides: dict) -> Path:
    workspace.make(folder)
    script = f"from flows import workspace; workspace.choose('smoke', {overrides!r})"
    workspace.run(folder, sys.executable, "-c", script)
    return folder


def undisturbed(folder: Path) -> tuple[dict[str, str], float]:
    """The results of a study that nobody disturbs, and the seconds that it takes."""
    began = time.monotonic()
    workspace.run(folder, sys.executable, "-m", "flows.local")
    return found(folder), time.monotonic() - began


def everything(folder: Path) -> list[psutil.Process]:
    """All processes that run in the folder, whoever started them."""
    running = []
    for one in psutil.process_iter(["cwd"]):
        if one.info["cwd"] and Path(one.info["cwd"]) == folder and one.pid != os.getpid():
            running.append(one)
    return running


def run_and_kill(folder: Path, seconds: float) -> str:
    """Start the study, kill all of it after `seconds`, and say what had finished by then."""
    with (folder / "killed.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "flows.local"], cwd=folder, env=workspace.environment(), stdout=log, stderr=log
        )
        try:
            code = started.wait(seconds)
            return f"ended by itself with {code}"
        except subprocess.TimeoutExpired:
            pass
        victims = everything(folder)
        random.Random(SEED).shuffle(victims)
        for one in victims:
            one.kill()
        started.wait(30)
    deadline = time.monotonic() + 30
    while everything(folder):  # a supervisor that was killed last leaves its children to nobody
        for one in everything(folder):
            one.kill()
        assert time.monotonic() < deadline, everything(folder)
        time.sleep(0.1)
    return f"killed {len(victims)} processes after {seconds:.1f} s"


def recovers(tmp_path: Path, overrides: dict, kills: int) -> None:
    expected, seconds = undisturbed(clone(tmp_path / "undisturbed", overrides))
    folder = clone(tmp_path / "killed", overrides)
    moments = random.Random(SEED)
    told = [run_and_kill(folder, moments.uniform(1.0, seconds / min(kills, 3))) for _ in range(kills)]
    output = workspace.run(folder, "dvc", "repro", check=False)
    about = f"seed {SEED}: {told}\n{output[-3000:]}"
    assert (folder / "report" / "results.csv").exists(), about
    assert found(folder) == expected, about
    assert not list(folder.rglob("*.partial")), about


@pytest.mark.slow
def test_a_study_that_is_killed_at_a_random_moment_ends_in_the_same_results(tmp_path):
    recovers(tmp_path, SMALL, kills=1)


@pytest.mark.chaos
def test_a_study_that_is_killed_ten_times_ends_in_the_same_results(tmp_path):
    recovers(tmp_path, {}, kills=10)
