"""How a command ends: one line for a user's mistake, whatever the terminal can show."""

import os
import subprocess
import sys

import pytest

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


def test_what_the_system_refuses_is_one_line_and_a_bug_keeps_its_traceback():
    def ended_with(number: str):
        return run(f"def main(): raise OSError(errors.errno.{number}, 'Told', 'a/b')\nerrors.exit_cleanly(main)")

    for number in ("EACCES", "ENOSPC", "EROFS"):
        done = ended_with(number)
        assert done.returncode == 1 and done.stderr.startswith(b"error: a/b: Told; ") and done.stderr.count(b"\n") == 1
    assert b"Traceback" in ended_with("EISDIR").stderr
