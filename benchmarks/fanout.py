"""What a second worker saves: prune and quality of twelve variants, shared out to one worker and to two.

    python -m benchmarks.fanout [--study smoke] [--rates 30,40,50,60,70,80]

A coordinator, a Prefect server and two workers run on this machine, each worker in a clone and pinned to a core of its
own; a DVC remote in a folder carries results. Two seeds of the study are trained first. Then the variants of the one
are made and judged with one worker online, those of the other with both: magnitude and history at each rate, from the
first part that begins to the end of the last, as Prefect noted it. Needs two idle cores; servers get what these leave.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from prunelab.errors import InputError, exit_cleanly
from tests.helpers.workshop import Workshop

METHODS = ["magnitude", "systematic"]
MINUTES = 60  # for each of the three runs


class Place(Workshop):
    """The workshop with a DVC remote in a folder, which every clone has."""

    def _publish_tree(self) -> None:
        super()._publish_tree()
        config = self.source / ".dvc" / "config"
        text = config.read_text().replace("[core]\n", "[core]\n    remote = shared\n")
        config.write_text(f"{text}['remote \"shared\"']\n    url = {self.folder / 'remote'}\n")
        self.publish("a remote")

    def work(self, pool: str, folder: Path, core: int | None = None):
        """A worker, pinned to a core."""
        before = os.sched_getaffinity(0)
        if core is not None:
            os.sched_setaffinity(0, {core})
        try:
            return self.start_worker(pool, folder, "--work-queue", "default", OMP_NUM_THREADS="1")
        finally:
            os.sched_setaffinity(0, before)

    def share_out(self, **parameters) -> list:
        """Have a study shared out; the runs of its parts, all of which have ended. Raises AssertionError."""
        before = {run.id for name in ("coordinator", "part") for run in self.runs(name)}
        assert self.ended(self.run("study/study", fan_out=True, **parameters), 300).state_name == "HandedOver"
        coordinator = next(run for run in self.runs("coordinator") if run.id not in before)
        ended = self.ended(coordinator, 60 * MINUTES)
        assert ended.state_name == "Completed", "\n".join(self.lines(coordinator)[-40:])
        return [run for run in self.runs("part") if run.id not in before]


def seconds(parts: list) -> float:
    """From the first that began to the end of the last."""
    return (max(run.end_time for run in parts) - min(run.start_time for run in parts)).total_seconds()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="smoke", help="whose model and texts are taken (default: smoke)")
    parser.add_argument("--rates", default="30,40,50,60,70,80", help="rates of both methods (default: six)")
    arguments = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise InputError(f"two workers need a core each; found {len(cores)} core")
    rates = [int(rate) for rate in arguments.rates.split(",")]
    folder = Path(tempfile.mkdtemp(prefix="prunelab-fanout-"))
    place = Place(folder)
    one, other = place.add_clone("one"), place.add_clone("other")
    prune = {"methods": METHODS, "rates": rates, "further": []}

    def asked(*seeds: str) -> dict:
        overrides = {"seeds": [*seeds], "prune": prune, "train": {"threads": 1}, "deploy": {"variant": "dense"}}
        return {"study": arguments.study, "overrides": overrides}

    try:
        place.start_server()
        place.work("cpu", place.clone)
        place.work("gpu", one, cores[0])
        place.share_out(**asked("s1", "s2"), targets=["reference", "calibrate"])
        alone = place.share_out(**asked("s1"), targets=["quality"])
        place.work("gpu", other, cores[1])
        time.sleep(10)  # until the server counts it
        both = place.share_out(**asked("s1", "s2"), targets=["quality"])  # those of s1 are there
    finally:
        place.close()
        shutil.rmtree(folder, ignore_errors=True)
    print("| workers | parts | prune and quality of the variants, s | × one worker |\n|---|---|---|---|")
    for workers, parts in ((1, alone), (2, both)):
        print(f"| {workers} | {len(parts)} | {seconds(parts):.1f} | {seconds(parts) / seconds(alone):.2f} |")


if __name__ == "__main__":
    exit_cleanly(main)
