"""How dvc is called, and which of the lines it prints are worth telling."""

import re
import sys

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


def command(*words: str) -> list[str]:
    """`dvc repro` as an argument list. Its default patience for dvc's lock is 3 s; several run side by side here."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *words]


def outcome(line: str) -> tuple[str, str] | None:
    """("ran" | "restored" | "unchanged", stage) where a line of dvc tells one; restored: from the run cache."""
    match = OUTCOME.match(line)
    return next(((kind, name) for kind, name in match.groupdict().items() if name), None) if match else None


def is_noise(line: str) -> bool:
    return not line.strip() or bool(NOISE.match(line))
