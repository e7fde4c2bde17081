"""Copy the results to where they outlast the next study: finished/<study>/, and MLflow. `python -m stages.mirror`.

The last stage, and it always runs, so that a plain `dvc repro` leaves both complete, also where DVC's cache restored
everything. Only what one of them lacks is written. A store or server that is down is told in a line and is no error:
the next run catches up.
"""

from prunelab.errors import exit_cleanly
from prunelab.mirror import kept, stamp, store


def main() -> None:
    kept.keep()
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
