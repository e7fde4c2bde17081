"""The store that MLflow's runs go to: its address, and in one line why it cannot be used.

Only the standard library is imported here; MLflow's and its database's exceptions are read by what they say.
"""

import contextlib
import os
import re
import shlex
import sqlite3
import urllib.parse
from pathlib import Path

from prunelab.errors import InputError, without_secrets

VARIABLE = "MLFLOW_TRACKING_URI"
FILE = "mlflow.db"
LATER = "the results are complete; mirror them later with: prunelab mirror"
EXAMPLES = "http://HOST:5000 for a server or sqlite:///mlflow.db for a file"
SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
MANAGED = ("databricks", "databricks-uc", "uc")
BARE = re.compile(r"(^|[\s='\"])[^\s/@:='\"]+:[^\s@'\"]*@(?=[\w.-]+(?::\d|/|$))")  # user:password@ without http://
LONGEST = 300  # characters of somebody else's reason; a server's page can be long


class Unreachable(InputError):
    """The MLflow store cannot be used: it does not answer, refuses, is of another version, broken or misspelt.

    `why` says that alone; the text ends with what to do about finished results.
    """

    def __init__(self, why: str):
        self.why = why
        super().__init__(f"{why}; {LATER}")


def is_set() -> bool:
    """Whether somebody names a store; only then a study is shown while it runs."""
    return bool(os.environ.get(VARIABLE, "").strip())


def address() -> str:
    """The store to use: MLFLOW_TRACKING_URI, else mlflow.db in the current folder. Raises Unreachable for no address.

    What is misspelt is told here, because MLflow takes it for a folder or answers with its list of plugins.
    """
    uri = os.environ.get(VARIABLE, "").strip() or f"sqlite:///{_default_file()}"
    scheme = _scheme(uri)
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise _misspelt(uri, f"a server's address begins with http://: {VARIABLE}=http://{uri}")
    if scheme in ("", "file"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return uri
        raise _misspelt(uri, f"MLflow writes no folders of files any more; expected {EXAMPLES}")
    if scheme not in (*SERVERS, *DATABASES, *MANAGED):
        raise _misspelt(uri, f"expected {EXAMPLES}, found {scheme}:")
    if scheme in SERVERS:
        _check_server(uri)
    if scheme == "sqlite":
        _check_file(uri)
    return uri


def _default_file() -> Path:
    """mlflow.db in the current folder; relative where the folder's name means something in an address.

    No two readers of sqlite:///… agree on what `#`, `?` and `%` are: an option's beginning, an escape, a letter.
    """
    path = Path(FILE).resolve()
    return Path(FILE) if re.search("[#?%]", str(path)) else path


def is_server(uri: str) -> bool:
    return _scheme(uri) in SERVERS


def file_of(uri: str) -> Path | None:
    """The file of an SQLite store, absolute; None for any other store, and for one in memory.

    SQLAlchemy, which opens it for MLflow, takes everything up to a question mark as the name, as it stands there.
    """
    name, _, options = uri.removeprefix("sqlite:///").partition("?")
    if _scheme(uri) != "sqlite" or "sqlite:///" not in uri or "uri=true" in options or name in ("", ":memory:"):
        return None
    return Path(name).absolute()


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection to an SQLite file that cannot change it, nor make it. Raises sqlite3.Error."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def shown(uri: str) -> str:
    """The address, or a text that holds addresses, without what somebody logs in with."""
    return BARE.sub(r"\1", without_secrets(uri))


def require_answer(uri: str) -> None:
    """Raises Unreachable when the server at `uri` does not answer within seconds; an error is an answer too."""
    import urllib.error
    import urllib.request

    # Its own log-in, if the address has one, is for MLflow: urllib would take it for a part of the host's name.
    try:
        urllib.request.urlopen(f"{shown(uri).rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        raise Unreachable(f"MLflow at {shown(uri)} does not answer ({getattr(error, 'reason', error)})") from None


def unusable(uri: str, error: Exception, done: int) -> Unreachable:
    """What MLflow raised while it used the store, as one line: the reason, what to do about it. done: runs it took."""
    reason, cure = _reason(uri, error)
    begun = f" after {done} runs" if done else ""
    return Unreachable(f"MLflow at {shown(uri)} takes nothing{begun}: {reason}{f'; {cure}' if cure else ''}")


def _reason(uri: str, error: Exception) -> tuple[str, str]:
    """(why, what to do) for an exception of MLflow, of its database layer or of the system."""
    text = _said(error)
    if versions := re.search(r"found version (\w+), but expected (\w+)", text):
        found, expected = versions.groups()
        return (
            f"its tables are of another version of MLflow (found {found}, expected {expected})",
            f"copy it, then run: mlflow db upgrade {shlex.quote(shown(uri))}, and if that does not know {found} "
            "either, install the newer MLflow that wrote it",
        )
    if isinstance(error, ImportError):
        return f"the Python package {error.name} is not installed, which this kind of database needs", "install it"
    cure, path = "", file_of(uri)
    if re.search(r"error code 40[13]\b|^UNAUTHENTICATED|^PERMISSION_DENIED", text):
        cure = "log in with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    elif re.search(r"\b5\d\d error|error code 5\d\d|^INTERNAL_ERROR", text):
        cure = "the server's own log says why"
    elif is_server(uri):
        cure = f"is {shown(uri)} the address of an MLflow 3 server?"
    elif path is not None and re.search("malformed|not a database", text):
        cure = f"name another file in {VARIABLE}, or move {path.name} away and the next mirror writes a new one"
    elif path is not None and (
        isinstance(error, OSError) or re.search("readonly|unable to open|locked|I/O|full", text)
    ):
        cure = f"{path} and its folder must be writable, and nothing else may hold it"
    return (text[:LONGEST] + " …" if len(text) > LONGEST else text) or type(error).__name__, cure


def _said(error: Exception) -> str:
    """The part of an exception's text that a person can use: no page of a server, no SQL, no addresses with log-ins."""
    text = str(getattr(error, "orig", None) or getattr(error, "message", None) or error)
    text = " ".join(re.split(r"Response body|\[SQL:", text)[0].split())
    for wrapped in (r".*\(\w+\.\w*Error\) (.+)", r".*Caused by \w+\(.*?[\"'](.+?)[\"']\)"):
        if inner := re.match(wrapped, text):
            text = inner[1]
    return shown(text).rstrip(" .:")


def _check_server(uri: str) -> None:
    try:
        parts = urllib.parse.urlsplit(uri)
        _ = parts.port  # read here, because an impossible one is told only when it is asked for
    except ValueError as error:
        raise _misspelt(uri, f"{error}; expected {EXAMPLES}") from None
    if not parts.hostname:
        raise _misspelt(uri, f"it names no host; expected {EXAMPLES}")


def _check_file(uri: str) -> None:
    """MLflow would try for two minutes to open what is no database, and say so at each try."""
    path, options = file_of(uri), urllib.parse.urlsplit(uri).query
    if path is None and "uri=true" not in options:
        raise _misspelt(uri, f"it names no file, so nothing would be kept; expected {EXAMPLES}")
    if "?" in uri and not all("=" in option for option in options.split("&")):
        raise _misspelt(uri, "options follow a question mark, so a file or folder named here cannot hold one")
    if path is None or not path.exists():
        return
    if path.is_dir():
        raise unusable(uri, IsADirectoryError(f"{path.name} is a folder"), 0)
    try:
        with contextlib.closing(open_read_only(path)) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        raise unusable(uri, error, 0) from None


def _scheme(uri: str) -> str:
    """`postgresql` of `postgresql+psycopg2://…`; empty for a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    if found is None:
        return "databricks" if uri == "databricks" else ""
    return found[1].lower().partition("+")[0]


def _misspelt(uri: str, why: str) -> Unreachable:
    return Unreachable(f"{VARIABLE}={shown(uri)}: {why}; correct or unset it (unset means {FILE} here)")
