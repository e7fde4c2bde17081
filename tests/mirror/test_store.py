"""The MLflow store: misspelt addresses, broken files, unwilling servers, each in one line with what to do."""

import os
import sqlite3
from pathlib import Path

import pytest

from prunelab.mirror import store
from prunelab.mirror.store import Unreachable


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    return tmp_path


def refused(monkeypatch, uri: str) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(Unreachable) as raised:
        store.address()
    assert "\n" not in str(raised.value) and "prunelab mirror" in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mlruns", "MLflow writes no folders of files any more; expected http://HOST:5000"),
        ("./mlruns", "no folders"),
        ("file:///srv/mlruns", "no folders"),
        ("mlflow.db", "sqlite:///mlflow.db for a file"),
        ("localhost:5000", "MLFLOW_TRACKING_URI=http://localhost:5000"),
        ("127.0.0.1:5000/", "MLFLOW_TRACKING_URI=http://127.0.0.1:5000/"),
        ("htp://x", "expected http://HOST:5000 for a server or sqlite:///mlflow.db for a file, found htp:"),
        ("s3://bucket/x", "found s3:"),
        ("http://", "it names no host"),
        ("http://[bad", "Invalid IPv6 URL"),
        ("http://host:99999", "Port out of range"),
        ("sqlite://", "it names no file, so nothing would be kept"),
        ("sqlite:///:memory:", "it names no file"),
        ("sqlite:mlflow.db", "it names no file"),
        ("sqlite:///what?/mlflow.db", "cannot hold one"),
    ],
)
def test_what_is_no_address_is_told_with_what_one_looks_like(monkeypatch, uri, words):
    told = refused(monkeypatch, uri)
    assert told.startswith(f"MLFLOW_TRACKING_URI={uri}: ") and words in told


def test_a_folder_is_taken_where_mlflow_was_told_to_take_folders(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert store.address() == "mlruns"


@pytest.mark.parametrize(
    "uri", ["http://h:5000", "https://u:p@h/x", "sqlite:///a b.db", "postgresql+psycopg2://u@h/x", "databricks"]
)
def test_addresses_that_mlflow_knows_are_left_as_they_are(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f" {uri}\n")
    assert store.address() == uri


@pytest.mark.parametrize("name", ["plain", "my study (2)", "my study (2) #1? 50%41 é"])
def test_without_a_variable_it_is_a_file_in_the_current_folder_whatever_that_is_called(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert store.file_of(store.address()) == folder / "mlflow.db"
    (folder / "mlflow.db").touch()
    store.open_read_only(store.file_of(store.address())).close()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////srv/my study #2 50%41/x.db", "/srv/my study #2 50%41/x.db"),
        ("sqlite:////srv/x.db?timeout=5", "/srv/x.db"),
        ("sqlite+pysqlite:////srv/x.db", "/srv/x.db"),
        ("sqlite:///file:x.db?mode=ro&uri=true", None),
        ("http://h/x.db", None),
        ("postgresql://h/x", None),
    ],
)
def test_the_file_of_a_store_is_what_stands_there_up_to_a_question_mark(uri, path):
    assert store.file_of(uri.replace("sqlite+pysqlite", "sqlite")) == (None if path is None else Path(path))


def test_a_file_that_is_no_database_is_told_at_once_with_a_way_out(here, monkeypatch):
    (here / "x.db").write_text("not a database, " * 100)
    told = refused(monkeypatch, "sqlite:///x.db")
    assert "file is not a database; name another file in MLFLOW_TRACKING_URI, or move x.db away" in told


def test_a_database_that_was_cut_off_is_told_at_once(here, monkeypatch):
    with sqlite3.connect(here / "mlflow.db") as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 1000,)] * 100)
    connection.close()
    os.truncate(here / "mlflow.db", 5000)
    assert "database disk image is malformed; name another file" in refused(monkeypatch, "sqlite:///mlflow.db")


def test_a_folder_in_the_place_of_the_file_is_told(here, monkeypatch):
    (here / "mlflow.db").mkdir()
    assert "mlflow.db is a folder" in refused(monkeypatch, "")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("user:secret@host:5000", "MLFLOW_TRACKING_URI=host:5000: expected http://HOST:5000 for a server"),
        ("ftp://user:secret@host/x", "MLFLOW_TRACKING_URI=ftp://host/x: expected"),
        ("http://user:secret@", "MLFLOW_TRACKING_URI=http://: it names no host"),
        ("http://user:se@cret@host:x", "MLFLOW_TRACKING_URI=http://host:x: Port could not be cast to integer"),
        ("ftp://host/x?access_token=secret", "MLFLOW_TRACKING_URI=ftp://host/x?access_token=…: expected"),
    ],
)
def test_a_misspelt_address_is_told_without_what_it_logs_in_with(here, monkeypatch, uri, told):
    line = refused(monkeypatch, uri)
    assert line.startswith(told) and "secret" not in line and "cret" not in line


SERVER = "http://u:secret@h:5000"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            Exception("Detected out-of-date database schema (found version aa, but expected bb). Take a backup of …"),
            "its tables are of another version of MLflow (found aa, expected bb); copy it, then run: "
            "mlflow db upgrade http://h:5000, and if that does not know aa either, install the newer MLflow",
        ),
        (
            Exception("API request to endpoint /a failed with error code 401 != 200. Response body: '<html>\n…'"),
            "API request to endpoint /a failed with error code 401 != 200; log in with MLFLOW_TRACKING_USERNAME",
        ),
        (Exception("PERMISSION_DENIED: not yours"), "PERMISSION_DENIED: not yours; log in with"),
        (
            Exception(
                "API request to http://u:secret@h:5000/a failed (Caused by ResponseError('too many 500 errors'))"
            ),
            "too many 500 errors; ",
        ),
        (Exception("not JSON"), "not JSON; is http://h:5000 the address of an MLflow 3 server?"),
        (
            ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2"),
            "the Python package psycopg2 is not installed, which this kind of database needs",
        ),
    ],
)
def test_what_mlflow_raises_becomes_its_reason_and_what_to_do_without_secrets(error, told):
    line = str(store.unusable(SERVER, error, 0))
    assert line.startswith(f"MLflow at http://h:5000 takes nothing: {told}"), line
    assert "\n" not in line and "secret" not in line and "html" not in line


def test_a_database_that_may_not_be_written_is_told_without_the_statement(here):
    statement = "\n[SQL: INSERT INTO runs VALUES (?)]"
    error = Exception(
        "(raised by autoflush) (sqlite3.OperationalError) attempt to write a readonly database" + statement
    )
    line = str(store.unusable("sqlite:///mlflow.db", error, 3))
    assert line.startswith("MLflow at sqlite:///mlflow.db takes nothing after 3 runs: attempt to write a readonly")
    assert f"database; {here / 'mlflow.db'} and its folder must be writable" in line and "INSERT" not in line
