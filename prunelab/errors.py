"""A user's mistake is told in one line; a bug of ours keeps its traceback."""

import sys


class InputError(ValueError):
    """Bad input. Its text is one line: the thing, what was expected and found, what to do."""


def exit_cleanly(main) -> None:
    """Run a command's `main()`; an `InputError` becomes one line on stderr and exit code 1.

    What the terminal's or a log's encoding does not have is printed as a question mark: under LC_ALL=C a stage would
    measure for an hour and then fail at the dots of its last line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="replace")
    try:
        main()
    except InputError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
