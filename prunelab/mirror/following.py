"""What of a running study MLflow is to be told, and its telling, a small piece at a time. `follow.py` drives it.

The runner says which stages begin and end (`take`). What there is to send follows from that and from the files that the
stages leave: the points of a training as it goes on, the figures of a row as soon as a stage has found some. Nothing is
queued: what could not be sent yet is a set of names of rows and a number of lines, however long MLflow is away.
"""

import json

from prunelab.errors import InputError
from prunelab.mirror import entries, runs, stages, stamp
from prunelab.mirror.entries import STUDY
from prunelab.training import points

POINTS_AT_ONCE = 100  # lines of a training in one piece


class Training:
    """A training of the seed `tag`; `began`: unix seconds."""

    def __init__(self, tag: str, began: float):
        self.tag, self.began = tag, began
        self._live = points.LIVE / f"{tag}.jsonl"
        self.row = f"{tag}/dense"
        self.sent = 0  # lines of its points
        self.ended = False

    def has_begun(self) -> bool:
        """Whether it is more than a stage that DVC may still find unchanged. The file of an earlier training, which may
        still be there, was opened before this one began."""
        return self.ended or points.read(self._live).opened >= self.began

    def lines(self) -> list[str]:
        """What is to be sent next."""
        if self.ended:
            path = stages.RESULTS / self.tag / "dense" / "training.jsonl"
            whole = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        else:
            whole = points.read(self._live).lines if self.has_begun() else []
        return whole[self.sent :][:POINTS_AT_ONCE]


class Following:
    """Of the study of `settings`. handed: path of a row → id of the run that somebody began for it; then none is begun
    here (STUDY is the path of the study's own). is_owner: we did, for others that tell of them, and end them all."""

    def __init__(self, settings, handed: dict[str, str] | None = None, is_owner: bool = False):
        self._settings, self._handed, self._is_owner = settings, handed, is_owner
        paths = [f"{tag}/{variant.id}" for tag in settings.seeds for variant in settings.variants()]
        self._rows: dict[str, list[str]] = {}  # stage → the rows that it makes or measures
        self._taking: dict[str, list[str]] = {}  # stage → the rows that take its figures over
        for path in paths:
            for stage in stages.of_row(settings, path).values():
                self._rows.setdefault(stage, []).append(path)
        for tag in settings.seeds:
            for variant in settings.variants():
                if other := settings.timed_as(variant):
                    stage = stages.of_row(settings, f"{tag}/{other}")["efficiency"]
                    self._taking.setdefault(stage, []).append(f"{tag}/{variant.id}")
        self._ended: set[str] = set()  # stages whose files are this study's
        self._first: float | None = None  # unix seconds at which the first stage that ran began
        self._began: dict[str, float] = {}  # row → unix seconds at which the first stage of it that ran began
        self._since: dict[str, float] = {}  # running stage → unix seconds
        self._due: dict[str, None] = {}  # rows with news, in the order in which they came
        self._trainings: dict[str, Training] = {}
        self._runs: dict[str, object] = {}  # path → MLflow's run
        self.store: runs.Runs | None = None  # set when it can be reached

    @property
    def is_own(self) -> bool:
        """Whether the runs that are told are begun here."""
        return self._handed is None

    def unchanged(self, names: list[str]) -> None:
        """These stages need not run: their files are the study's already."""
        self._ended |= {*names}

    def began(self, stage: str, at: float) -> None:
        self._ended.discard(stage)
        self._since[stage] = at
        self._first = at if self._first is None else self._first
        if stage.startswith("train@"):
            tag = stage.removeprefix("train@")
            self._trainings[tag] = Training(tag, at)
            self._began.setdefault(f"{tag}/dense", at)

    def ended(self, stage: str, outcome: str) -> None:
        """outcome: "ran", or what DVC found it to be: "restored" from its cache, "unchanged"; "failed"."""
        at = self._since.pop(stage, 0.0)
        training = self._trainings.get(stage.removeprefix("train@")) if stage.startswith("train@") else None
        if outcome == "failed":
            return
        self._ended.add(stage)
        if outcome == "ran":
            for path in self._rows.get(stage, []):
                self._note(path, at)
            if training:
                training.ended = True
        elif training:  # nothing was trained
            del self._trainings[training.tag]
            self._began.pop(training.row, None)
        # What another run of the program has made the mirror completes: only what is begun here is told here.
        self._due |= dict.fromkeys(path for path in self._taking.get(stage, []) if path in self._began)

    def _note(self, path: str, at: float) -> None:
        self._began.setdefault(path, at)
        self._due[path] = None

    def is_due(self) -> bool:
        for tag, training in list(self._trainings.items()):
            if training.lines() or self._is_new(training):
                return True
            if training.ended:
                del self._trainings[tag]
        return bool(self._due)

    def _is_new(self, training: Training) -> bool:
        """Whether it has begun, and its run has not."""
        ours = self._handed is None or training.row in self._handed
        return ours and training.row not in self._runs and training.has_begun()

    def send(self) -> None:
        """One piece of what is due. Raises InputError for a row whose files can't be read, which is given up; whatever
        MLflow raises leaves it due."""
        for path in self._due:
            self._send_row(path)
            return
        for training in self._trainings.values():
            if self._is_new(training):
                self._run(training.row)
                return
            if lines := training.lines():
                told = [point for line in lines for point in entries.of_line(json.loads(line))]
                for path in (training.row, *([STUDY] if training.tag == self._settings.seeds[0] else [])):
                    if run := self._run(path):
                        self.store.add_points(run, told)
                training.sent += len(lines)
                return

    def _send_row(self, path: str) -> None:
        try:
            row = stages.row_so_far(self._settings, path, self._ended)
        except InputError:
            del self._due[path]
            raise
        entry = entries.begun(self._settings, path, row)
        if run := self._run(path, entry):
            self.store.add_figures(run, entry.metrics)
        del self._due[path]

    def _run(self, path: str, entry: entries.Entry | None = None):
        """The run of a row, or of STUDY; None where runs are handed out and none is for it."""
        if path in self._runs:
            return self._runs[path]
        if path != STUDY:
            self._run(STUDY)  # the first in the list, as long as it runs
        if self._handed is not None and path not in self._handed:
            return None
        if entry is None:
            row = {} if path == STUDY else stages.row_so_far(self._settings, path, self._ended)
            entry = entries.begun(self._settings, path, row)
        stamp.PATH.unlink(missing_ok=True)  # the mirror has something to complete
        self._runs[path] = self.store.begin(
            entry._replace(began_ms=self._when(path)), None if self._handed is None else self._handed[path]
        )
        return self._runs[path]

    def _when(self, path: str) -> int:
        """Unix ms at which the first of its stages began, also one that had ended before this run of the program."""
        settings = self._settings
        booked = stages.bookings_of_study(settings) if path == STUDY else stages.bookings(settings, path)
        earlier, _ = stages.when(file for stage, file in booked.items() if stage in self._ended)
        now = round(1000 * (self._first if path == STUDY else self._began[path]))
        return now if earlier is None else min(now, earlier)

    def has_begun_any(self) -> bool:
        return bool(self._runs or (self._is_owner and self._handed))

    def end(self, status: str) -> None:
        """Nobody works on the runs that were begun: the study was stopped (KILLED) or could not go on (FAILED)."""
        identifiers = {run.info.run_id for run in self._runs.values()}
        if self._is_owner:
            identifiers |= {*self._handed.values()}
        self._runs.clear()
        for identifier in sorted(identifiers):
            self.store.end(identifier, status)


def hand_out(settings, there: runs.Runs, paths: list[str]) -> dict[str, str]:
    """Begin the runs of these rows and of the study, so that several machines tell the same ones: path → run id."""
    there.look(finished_too=False)
    given = {}
    for path in (STUDY, *paths):
        row = {} if path == STUDY else stages.row_so_far(settings, path, ())
        given[path] = there.begin(entries.begun(settings, path, row)).info.run_id
    return given
