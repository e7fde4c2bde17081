"""What Prefect's interface shows of a study beside logs and states: its artifacts, whose keys name the study.

progress-STUDY   stages done, elapsed, left; while it runs. Of a shared-out study all of its stages, wherever they run;
                 what one worker has to do of it is progress-STUDY-part
results-STUDY    the table of the rows; at the end, like
links-STUDY      where MLflow shows the rows side by side, and where the report lies
"""

import csv
import json
import socket
import time
from pathlib import Path

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.schedule import clock
from prunelab.errors import InputError
from prunelab.mirror import stamp, store

RESULTS, PAGE = Path("report/results.csv"), Path("report/index.html")


class Progress:
    """The progress artifact of a study with so many stages to run, from now on."""

    def __init__(self, study: str, stages: int, share: str | None = None):
        """share: whose share of the stages it tells, `part` or `coordinator`; None: the study's own."""
        key = f"progress-{study}" if share is None else f"progress-{study}-{share}"
        self._study, self._stages, self._began = study, stages, time.monotonic()
        self._artifact = create_progress_artifact(0.0, key=key, description=self.told(0, None))

    def told(self, done: int, seconds_left: float | None) -> str:
        left = "no estimate yet" if seconds_left is None else f"about {clock(seconds_left)} left"
        elapsed = clock(time.monotonic() - self._began)
        return f"{done} of {self._stages} stages done, {elapsed} elapsed, {left}"

    def update(self, done: int, seconds_left: float | None) -> str:
        """Show that `done` stages have ended, and what is said of it in the log."""
        told = self.told(done, seconds_left)
        percent = 100 * done / self._stages if self._stages else 100.0  # of probes alone there are none to tell
        update_progress_artifact(self._artifact, percent, f"study {self._study}: {told}")
        return told


def publish(study: str) -> None:
    """The result table, and where more of it is to be seen, as far as they are there."""
    if RESULTS.exists():
        with RESULTS.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        create_table_artifact(rows, key=f"results-{study}", description=f"{RESULTS} of the study `{study}`")
    if PAGE.exists():
        create_markdown_artifact(links(), key=f"links-{study}", description=f"the study `{study}` elsewhere")


def links() -> str:
    """Markdown: MLflow's comparison of this folder's results, if they are mirrored, and where their report lies."""
    place = f"- The report: `{PAGE.resolve()}` on `{socket.gethostname()}`"
    if (mirrored := _mirrored()) is None:
        return f"- MLflow holds nothing of it yet: `prunelab mirror`\n{place}\n"
    base, _, _ = mirrored["link"].partition("/#/")
    run = f"{base}/#/experiments/{mirrored['experiment']}/runs/{mirrored['runs'][-1]}/artifacts"
    return f"- [MLflow: the rows side by side]({mirrored['link']})\n{place}, and [in MLflow]({run})\n"


def _mirrored() -> dict | None:
    """What was mirrored last, where that is what the folder holds."""
    try:
        found = json.loads(stamp.PATH.read_text(encoding="utf-8"))
        return found if found.get("key") == stamp.key(store.address()) else None
    except (FileNotFoundError, ValueError, InputError):  # none; cut short; a misspelt address, which the mirror told
        return None
