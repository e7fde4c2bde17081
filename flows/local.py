"""The study through plain DVC, without Prefect: what `make study` runs.

    python -m flows.local [--study NAME]

DVC runs what changed and its output appears as it comes; then the results go to MLflow and are printed.
"""

import argparse
import sys
import time
from collections import Counter

from flows import process, repro, workspace
from prunelab import errors

PROBES = ("device", "inputs")  # the stages that always run; alone they are no news


class Screen:
    """Shows dvc's lines but for those of stages that didn't change and of the probes, and counts what happened."""

    def __init__(self):
        self.counts: Counter[str] = Counter()  # "ran" | "restored" | "unchanged" → stages, no probe among them
        self.held: list[str] = []  # the probes' lines, wanted only if one fails
        self.holding = False

    def show(self, line: str) -> None:
        if repro.is_noise(line):
            return
        if told := repro.outcome(line):
            kind, stage = told
            self.holding = stage in PROBES
            if not self.holding:
                self.counts[kind] += 1
            if kind == "unchanged":
                return
        if self.holding:
            self.held.append(line)
        else:
            print(line, flush=True)

    def summary(self, seconds: float) -> str:
        """What happened, in one line."""
        total, unchanged = sum(self.counts.values()), self.counts["unchanged"]
        if unchanged == total:
            return f"nothing to do: all {total} stages are unchanged (only the probes of machine and files ran)"
        return (
            f"{total} stages: {self.counts['ran']} ran, {self.counts['restored']} restored from the cache, "
            f"{unchanged} unchanged; {seconds / 60:.1f} min"
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.local", description=__doc__.partition("\n")[0])
    parser.add_argument("--study", help="a file of studies/, without .yaml; default: the params.yaml that is there")
    arguments = parser.parse_args(argv)
    process.leave_in_order()
    try:
        with workspace.alone():
            workspace.choose(arguments.study)
            _run_study()
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept: `make study` continues", file=sys.stderr)
        sys.exit(130)


def _run_study() -> None:
    screen, began = Screen(), time.monotonic()
    # dvc's own messages of failure and the stages' progress bars are on stderr and keep the terminal.
    code = process.run(repro.command(), screen.show, merge_stderr=False, own_session=True)
    if code:
        print(*screen.held, sep="\n", flush=True)
        sys.exit("error: the study stopped, see above; what is finished is kept: `make study` continues")
    print(screen.summary(time.monotonic() - began), flush=True)
    for command in (["prunelab.mirror.tracking", "--if-reachable"], ["prunelab.report.results"]):
        if process.run([sys.executable, "-m", *command], None, own_session=True):
            sys.exit(f"error: the study is complete, but `python -m {' '.join(command)}` failed, see above")
    print("MLflow: make ui")


if __name__ == "__main__":
    errors.exit_cleanly(main)
