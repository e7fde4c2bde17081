"""What a study shows while it runs: a line a finished stage, on a terminal a bar below, everything else in a log."""

import datetime
import sys
import threading
import time
from pathlib import Path

from tqdm import tqdm

from flows import told
from flows.repro import Said
from flows.schedule import clock
from prunelab.tasks import Headline

LOGS = Path(".prunelab/logs")
KEPT_LOGS = 20
NAMED = 8  # stages that did not run because of one that failed; of further ones the number


class Log:
    """Every line that dvc and the stages print, behind the time and the stage; a file a run."""

    def __init__(self, folder: Path = LOGS):
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("*.log"))[: -KEPT_LOGS + 1]:
            old.unlink()
        self.path = folder / f"{datetime.datetime.now():%Y-%m-%dT%H-%M-%S}.log"
        self._file = self.path.open("a", encoding="utf-8")
        self._writing = threading.Lock()

    def write(self, stage: str, line: str) -> None:
        with self._writing:
            print(f"{datetime.datetime.now():%H:%M:%S} {stage} | {line}", file=self._file, flush=True)

    def close(self) -> None:
        self._file.close()


class Screen:
    """The stages of one run. `total` of them are to run; whether the seed is shown hangs on the study having several,
    what is told of a model on its headline figure.

    The bar is on standard error, where that is a terminal; the lines are on standard output.
    """

    def __init__(self, total: int, show_seeds: bool, headline: Headline):
        self._total, self._show_seeds, self._headline = total, show_seeds, headline
        self._finished, self._began = 0, time.monotonic()
        self._running: dict[str, str] = {}  # stage → the newest line that it printed
        self._left: tuple[float, float] | None = None  # seconds that were left, and when that was said
        off = not sys.stderr.isatty()
        common = {"file": sys.stderr, "disable": off, "leave": False, "dynamic_ncols": True}
        self._bar = tqdm(total=total, bar_format="{bar} {n_fmt}/{total_fmt} stages{desc}", **common)
        self._now = tqdm(bar_format="{desc}", position=1, **common)
        self._closed = threading.Event()
        if not off:
            threading.Thread(target=self._tick, daemon=True).start()

    def started(self, stage: str) -> None:
        self._running = {**self._running, stage: ""}

    def said(self, stage: str, line: str) -> None:
        """A line of a running stage, such as how far a training is; called from several threads."""
        if stage in self._running:
            self._running = {**self._running, stage: line.strip()}

    def ended(self, stage: str, said: Said, seconds: float, succeeded: bool, left: float | None) -> None:
        """Tell that a stage has finished; `left`: seconds that the others are expected to take."""
        self._running = {name: line for name, line in self._running.items() if name != stage}
        self._finished += 1
        self._left = None if left is None else (left, time.monotonic())
        if not succeeded:
            found = ["FAILED"]
        elif said.outcome == "ran":
            found = told.facts(stage, self._headline, list(said.last))
        else:
            found = ["restored from the cache" if said.outcome == "restored" else "unchanged"]
        taken = f"{seconds:.0f} s" if seconds < 100 else clock(seconds)
        number = f"{self._finished:{len(str(self._total))}}"
        self.print(" · ".join([f"[{number}/{self._total}] {self.name(stage)}", *found, taken]))
        self._bar.update()

    def news(self) -> None:
        """A sign of life where nothing has finished for long, and no bar shows that."""
        if self._bar.disable:
            self.print(f"… {clock(time.monotonic() - self._began)} elapsed, {self._doing()}")

    def print(self, line: str) -> None:
        tqdm.write(line, file=sys.stdout)  # which takes the bars away and draws them again
        sys.stdout.flush()

    def name(self, stage: str) -> str:
        return told.name(stage, self._show_seeds)

    def close(self) -> None:
        self._closed.set()
        self._now.close()
        self._bar.close()

    def _doing(self) -> str:
        running = [f"{self.name(stage)}: {line}" if line else self.name(stage) for stage, line in self._running.items()]
        return " | ".join(running)

    def _tick(self) -> None:
        """Draw the bars again every second."""
        while not self._closed.wait(1):
            left = ""
            if self._left:
                seconds = self._left[0] - (time.monotonic() - self._left[1])
                left = f", about {clock(max(0.0, seconds))} left"
            with self._bar.get_lock():
                self._bar.set_description_str(f" · {clock(time.monotonic() - self._began)} elapsed{left}")
                self._now.set_description_str(self._doing()[: max(1, (self._bar.ncols or 80) - 1)])


def failures(reasons: dict[str, Said], kept_back: dict[str, list[str]], log: Path, show_seeds: bool = False) -> str:
    """What failed, what it said, and what was not run because of it.

    reasons: failed stage → what it said; kept_back: failed stage → those that need it.
    """
    lines = []
    for stage, said in reasons.items():
        lines += [f"{told.name(stage, show_seeds)} failed:", *(f"    {line}" for line in said.words())]
        if names := [told.name(one, show_seeds) for one in kept_back.get(stage, [])]:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            lines.append(f"  not run because of it: {', '.join(names[:NAMED])}{more}")
    return "\n".join([*lines, f"every line that the stages printed: {log}"])
