"""Copy the results to MLflow, as far as its store lacks them: `python -m stages.mirror`.

The last stage, so that a plain `dvc repro` leaves MLflow complete. A store or server that is down is told in a line and
is no error: the stage always runs, and the next run catches up.
"""

from prunelab.errors import exit_cleanly
from prunelab.mirror import tracking


def main() -> None:
    tracking.main(["--if-reachable"])


if __name__ == "__main__":
    exit_cleanly(main)
