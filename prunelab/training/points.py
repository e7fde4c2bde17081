"""What a training says of itself while it goes on: points, a line of JSON each, appended to a small file.

    {"at": 1764246005.12, "step": 41, "recent_train_loss": 2.51, "learning_rate": 9e-4, "tokens_per_second": 13012.5}
    {"at": 1764246011.40, "step": 100, "epoch": 1.0, "tick": 1, "train_loss": 2.42, "validation_loss": 2.31, …}

The first kind is written by the clock, the second at every evaluation: the rows of history/curve.csv. `at` is in unix
seconds. While it trains they stand in LIVE/<seed>.jsonl, behind a line that says of which training they are and when it
was begun or continued; whoever shows them (prunelab/mirror) reads what has come. A training that was killed goes on in
the same file, and what it does again is not written again. At the end the points become an output of the stage, so that
they can be shown wherever DVC's cache brings them.

Only the standard library is imported here.
"""

import json
import math
import time
from pathlib import Path
from typing import NamedTuple

from prunelab.disk.files import whole_file

LIVE = Path(".prunelab/training")
EVERY_SECONDS = 5.0  # between two points by the clock at the least
DENSEST = 500  # so many points in the time since the beginning at the most: a day of training makes 2,300


class Written(NamedTuple):
    training: str | None  # what decides the training, as a hash; None: no such file, or one cut off in its first line
    opened: float  # unix seconds at which it was begun or last continued
    lines: list[str]  # a whole point each


class Points:
    """Appends to the file `path` (None: nowhere) of the training that the hash `training` stands for."""

    def __init__(self, path: Path | None, training: str, tokens_per_step: int):
        self._tokens_per_step = tokens_per_step
        self._file = None
        self._last = {True: -1, False: -1}  # the last step that is there: of evaluations, and by the clock
        self._began: float | None = None  # by the monotonic clock, as all times here
        self._since = (0, 0.0)  # step and time of the last point by the clock
        self._losses: list[float] = []  # since then
        self._newest = (0, 0.0)  # the last step and its learning rate
        if path is not None:
            self._open(path, training)

    def _open(self, path: Path, training: str) -> None:
        before = read(path)
        lines = before.lines if before.training == training else []
        with whole_file(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in (_header(training), *lines)), encoding="utf-8")
        for point in map(json.loads, lines):
            self._last["validation_loss" in point] = point["step"]
        self._file = path.open("a", encoding="utf-8")

    def begin(self, step: int) -> None:
        """Training goes on behind `step`; to be told before each step, the first time counts."""
        if self._began is None:
            self._began = time.monotonic()
            self._since = (step, self._began)

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """`step` is done, with `loss` (nats a token)."""
        if self._file is None:
            return
        self._losses.append(loss)
        self._newest = (step, learning_rate)
        now = time.monotonic()
        if now - self._since[1] >= max(EVERY_SECONDS, (now - self._began) / DENSEST):
            self._tell(now)

    def evaluated(self, row: dict) -> None:
        """`row`: of the training curve, as history/curve.csv will hold it."""
        self._add(row)

    def close(self) -> None:
        """The end of the training: what came since the last point by the clock becomes one more."""
        if self._file is None:
            return
        if self._losses:
            self._tell(time.monotonic())
        self._file.close()
        self._file = None

    def _tell(self, now: float) -> None:
        (first, since), (step, learning_rate) = self._since, self._newest
        speed = (step - first) * self._tokens_per_step / max(now - since, 1e-9)  # evaluations included
        loss = sum(self._losses) / len(self._losses)
        told = {"recent_train_loss": loss, "learning_rate": learning_rate, "tokens_per_second": round(speed, 1)}
        self._add({"step": step, **told})
        self._since, self._losses = (step, now), []

    def _add(self, row: dict) -> None:
        kind = "validation_loss" in row
        if self._file is None or row["step"] <= self._last[kind]:
            return
        self._last[kind] = row["step"]
        point = {key: value for key, value in row.items() if value is not None and math.isfinite(value)}
        self._file.write(json.dumps({"at": round(time.time(), 3), **point}) + "\n")
        self._file.flush()


def _header(training: str) -> str:
    return json.dumps({"training": training, "opened": round(time.time(), 3)})


def read(path: Path) -> Written:
    """What stands in a file of LIVE as far as it was written; a last line that was cut off, or still comes, is left."""
    header, *lines = [*_whole_lines(path), ""] if path.exists() else [""]
    if not header:
        return Written(None, 0.0, [])
    known = json.loads(header)
    return Written(known["training"], known["opened"], lines[:-1])


def finished(path: Path) -> list[dict]:
    """The points of a training that has ended, of the file that `hand_over` wrote; none where there is no file."""
    return [json.loads(line) for line in _whole_lines(path)] if path.exists() else []


def hand_over(live: Path, out: Path) -> None:
    """Write the points of the training that has just ended to `out`, none where it had none, and forget `live`."""
    lines = read(live).lines
    with whole_file(out) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    live.unlink(missing_ok=True)


def _whole_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]
