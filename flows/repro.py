"""What dvc's lines mean, and which of them are worth telling."""

import collections
import re

# Hints for people who type dvc's commands themselves; in a study they hide the lines that matter.
NOISE = re.compile(
    r"To track the changes with git, run:|\s*git add |To enable auto staging, run:|\s*dvc config core\.autostage"
    r"|Use `dvc push` to send your updates|(Updating|Generating) lock file"
)
OUTCOME = re.compile(
    r"Running stage '(?P<ran>[^']+)'"
    r"|Stage '(?P<restored>[^']+)' is cached"
    r"|Stage '(?P<unchanged>[^']+)' didn't change"
)
# dvc's own: the command it starts, and that the stage failed, which the stage has said better.
DVCS = re.compile(r"> |ERROR: failed to reproduce|Verifying outputs|Data and pipelines are up to date")
TOLD_LINES = 8  # of a failed stage that doesn't say what is wrong itself


class Said:
    """What one run of dvc said: what became of the stage, and its own words."""

    def __init__(self, stage: str):
        self.stage = stage  # with several in one run the one that ran last
        self.outcome = "unchanged"  # "ran" | "restored" | "unchanged"
        self.last: collections.deque[str] = collections.deque(maxlen=4 * TOLD_LINES)  # its own lines, noise left out

    def take(self, line: str) -> bool:
        """Note a line; whether it is one of the stage's own."""
        if is_noise(line):
            return False
        if told := outcome(line):
            self.outcome, self.stage = told
            self.last.clear()
            return False
        if DVCS.match(line):
            return False
        self.last.append(line)
        return True

    @property
    def is_users_mistake(self) -> bool:
        """It said `error: …` (prunelab.errors): trying again changes nothing."""
        return any(line.startswith("error: ") for line in self.last)

    def words(self) -> list[str]:
        """Why it failed: its `error:` line, else its last lines."""
        errors = [line for line in self.last if line.startswith("error: ")]
        return errors[-1:] or list(self.last)[-TOLD_LINES:] or ["(it printed nothing)"]


def outcome(line: str) -> tuple[str, str] | None:
    """("ran" | "restored" | "unchanged", stage) where a line of dvc tells one; restored: from the run cache."""
    match = OUTCOME.match(line)
    return next(((kind, name) for kind, name in match.groupdict().items() if name), None) if match else None


def is_noise(line: str) -> bool:
    return not line.strip() or bool(NOISE.match(line))
