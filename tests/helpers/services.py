"""Servers in earnest, on loopback: PostgreSQL, an S3 server that checks keys, MLflow on both."""

import contextlib
import glob
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.helpers.workshop import free_port

KEY, SECRET = "PRUNELABKEY", "prunelab-secret-of-a-test"  # marker strings: neither may be found in what is written
BUCKET = "shared"


def lacking() -> str | None:
    """What is not installed of all that these servers need; `make test-services` installs it."""
    import importlib.util

    if _postgres("initdb") is None:
        return "PostgreSQL"
    names = ("dvc_s3", "boto3", "psycopg2")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return missing[0] if missing else None if _rclone() else "rclone"


def keys(secret: str = SECRET) -> dict[str, str]:
    """The environment of a client of the S3 server. What it computes itself of a checksum rclone does not know."""
    return {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }  # fmt: skip


class Storage:
    """An S3 server with one bucket, which may be stopped and started again."""

    def __init__(self, folder: Path):
        self.folder, self.port, self._process = folder / "s3", free_port(), None
        (self.folder / BUCKET).mkdir(parents=True)
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [_rclone(), "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{self.port}"]
        self._process = subprocess.Popen(
            [*command, "--config", os.devnull, str(self.folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _until(lambda: _answers(self.address), 30, "the S3 server does not answer")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


class Postgres:
    """A PostgreSQL server with a database `mlflow`, which may be stopped and started again.

    It refuses to run as root, so root starts it as the user that its package made.
    """

    def __init__(self):
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="prunelab-pg-")), free_port()
        self.address = f"postgresql+psycopg2://mlflow@127.0.0.1:{self.port}/mlflow"
        self._as = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def start(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            self._run("initdb", "-D", str(data), "-U", "mlflow", "-A", "trust", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", str(data), "-w", "-l", str(self.folder / "log"), "-o", options, "start")
        if not (self.folder / "made").exists():
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow", "mlflow")
            (self.folder / "made").touch()

    def stop(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # it does not run
            self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*self._as, _postgres(program), *words], cwd=self.folder, timeout=60, **quiet)


class MLflow:
    """An MLflow server whose runs are in PostgreSQL and whose artifacts go through it to the S3 server."""

    def __init__(self, folder: Path, postgres: Postgres, storage: Storage):
        self.port, self._process, self.log = free_port(), None, folder / "mlflow.txt"
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", postgres.address,
            "--artifacts-destination", f"s3://{BUCKET}/mlflow", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1",
        ]  # fmt: skip
        self._environment = os.environ | keys() | {
            "MLFLOW_S3_ENDPOINT_URL": storage.address, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }  # fmt: skip

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        _until(lambda: _answers(f"{self.address}/health"), 120, "MLflow does not answer", self.log)

    def stop(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()


def _rclone() -> str | None:
    beside = Path(sys.executable).parent / "rclone"
    return str(beside) if beside.exists() else shutil.which("rclone")


def _postgres(program: str) -> str | None:
    """Debian puts the programs where PATH does not lead."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))
    return found[-1] if found else shutil.which(program)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError:  # such as for want of a key
        return True
    except OSError:
        return False


def _until(condition, seconds: float, what: str, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}\n{log.read_text()[-3000:] if log else ''}"
        time.sleep(0.2)
