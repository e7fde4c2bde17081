"""Copy the results to MLflow, as far as its store lacks them: `python -m stages.mirror`.

The last stage, so that a plain `dvc repro` leaves MLflow complete. A store or server that is down is told in a line and
is no error: the stage always runs, and the next run catches up.
"""

from prunelab.errors import exit_cleanly
from prunelab.mirror import stamp, store


def main() -> None:
    try:
        uri = store.address()
        if known := stamp.still_there(uri, stamp.key(uri)):
            print(stamp.told(known))
            return
        from prunelab.mirror import tracking  # here, because with nothing new its second of imports is not needed

        tracking.bring()
    except store.Unreachable as error:
        print(error)


if __name__ == "__main__":
    exit_cleanly(main)
