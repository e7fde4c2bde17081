"""How a command ends: one line for a user's mistake, whatever the terminal can show."""

import os
import subprocess
import sys

import pytest

from prunelab import errors

ASCII = [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]


def run(code: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", f"from prunelab import errors\n{code}"]
    return subprocess.run(command, env=os.environ | variables, capture_output=True)


@pytest.mark.parametrize("variables", ASCII, ids=["locale", "encoding"])
def test_a_locale_without_our_letters_ends_no_stage(variables):
    done = run(r"errors.exit_cleanly(lambda: print('1.0 \u2026 2.0'))", **variables)
    assert done.returncode == 0 and done.stdout == b"1.0 ? 2.0\n", done.stderr


@pytest.mark.parametrize("variables", ASCII, ids=["locale", "encoding"])
def test_a_mistake_is_one_line_in_any_locale(variables):
    main = r"def main(): raise errors.InputError('caf\u00e9:\n no such study')"
    done = run(f"{main}\nerrors.exit_cleanly(main)", **variables)
    assert done.returncode == 1 and done.stderr == b"error: caf?: no such study\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no answer of http://me:hidden@host:5000/a", "no answer of http://host:5000/a"),
        ("'https://hidden@host/x' and https://me:hid@den@host", "'https://host/x' and https://host"),
        ("postgresql+psycopg2://me:hid/den@host/db", "postgresql+psycopg2://host/db"),  # SQLAlchemy takes a slash
        ("https://host/a?X-Amz-Signature=hidden&part=1", "https://host/a?X-Amz-Signature=…&part=1"),
        ("https://host/a?x=1&api_key=hidden", "https://host/a?x=1&api_key=…"),
    ],
)
def test_what_an_address_logs_in_with_is_left_out_of_the_line_of_a_mistake(text, told):
    assert errors.without_secrets(text) == told
    done = run(f"def main(): raise errors.InputError({text!r})\nerrors.exit_cleanly(main)")
    assert b"hid" not in done.stderr and b"den" not in done.stderr and done.stderr.startswith(b"error: ")


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:5000/#/experiments/1/runs?x=a@b", "prune@magnitude-50-s1", "git@host:a/b", "sqlite:///a b.db",
     "s3://bucket/a@b", "at 12:30 someone@example.org", "https://host/a?tokens=3&password_hint"],
)  # fmt: skip
def test_what_is_no_log_in_stays_as_it_is(text):
    assert errors.without_secrets(text) == text


def test_what_the_system_refuses_is_one_line_and_a_bug_keeps_its_traceback():
    def ended_with(number: str):
        return run(f"def main(): raise OSError(errors.errno.{number}, 'Told', 'a/b')\nerrors.exit_cleanly(main)")

    for number in ("EACCES", "ENOSPC", "EROFS"):
        done = ended_with(number)
        assert done.returncode == 1 and done.stderr.startswith(b"error: a/b: Told; ") and done.stderr.count(b"\n") == 1
    assert b"Traceback" in ended_with("EISDIR").stderr
