"""A user's mistake is told in one line; a bug of ours keeps its traceback."""

import errno
import re
import sys

# What the system refuses whatever the program does: no rights, no space, a file system that is read only.
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}

# What somebody logs in with, in an address: up to the last @ before its path; in a database's the password may hold a
# slash. And what stands behind a question mark under a name that says it is secret.
LOGIN = re.compile(
    r"(?P<scheme>\bhttps?://)[^\s/'\"]*@|(?P<other>\b(?!https?:)[a-z][\w+.-]*://)[^\s/@:'\"]*(:[^\s'\"]*)?@", re.I
)
SECRET = re.compile(
    r"([?&](?:[\w-]*(?:password|passwd|secret|token|signature|credential)|api_?key|sig|pwd)=)[^&\s'\"]*", re.I
)


class InputError(ValueError):
    """Bad input. Its text is one line: the thing, what was expected and found, what to do."""


def without_secrets(text: str) -> str:
    """`text` without what somebody logs in with, wherever an address in it holds that."""
    return SECRET.sub(r"\1…", LOGIN.sub(lambda match: match["scheme"] or match["other"], text))


def in_one_line(error: Exception, longest: int = 240) -> str:
    """What a library says in its error, which may be a page: its first `longest` characters, on one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= longest else f"{reason[:longest]} …"


def nearest(word: str, known, bare: bool = False) -> str | None:
    """` (did you mean …?)` for a phrase on a word that is not `known`, empty where nothing is like it.

    bare: the nearest word itself, None where nothing is like it.
    """
    import difflib  # only who errs waits for it

    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if bare:
        return match[0] if match else None
    return f" (did you mean {match[0]!r}?)" if match else ""


def exit_cleanly(main) -> None:
    """Run a command's `main()`; an `InputError`, or what the system refuses, becomes one line and exit code 1.

    Log-ins in addresses are left out of it, such as a package index's in what pip says. What the terminal's or a log's
    encoding does not have is printed as a question mark: under LC_ALL=C a stage would measure for an hour and then fail
    at the dots of its last line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="replace")
    try:
        main()
    except InputError as error:
        told = str(error)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        told = f"{error.filename or 'a file'}: {error.strerror}; give it the rights or the space, or name another place"
    else:
        return
    print("error: " + without_secrets(" ".join(told.split())), file=sys.stderr)
    sys.exit(1)
