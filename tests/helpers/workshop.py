"""Workers as they are in earnest, on loopback: an origin, clones of it, a Prefect server, process workers."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Workshop:
    """An origin, clones of it, a Prefect server and workers; commands run with its addresses.

    source: a working tree to publish from; clone: the first worker's. Of what was started, `started` holds all that
    must not end by itself.
    """

    def __init__(self, folder: Path, **more: str):
        """more: further variables for everything that is started."""
        self.folder = folder
        self.source, self.origin = folder / "source", folder / "origin.git"
        self.port = free_port()
        outside = ("PREFECT_", "PYTHONPATH", "MLFLOW_", "AWS_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(outside)},
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "2",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "8",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_WORKER_PREFETCH_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            **more,
        }
        self.started: list[subprocess.Popen] = []
        self.log = folder / "log.txt"
        self._publish_tree()
        self.clone = self.add_clone("clone")

    def _publish_tree(self) -> None:
        """The tree as it is, committed or not, becomes the origin's."""
        self.source.mkdir()
        for name in git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():
            if (ROOT / name).exists():
                (self.source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.source / name)
        git(self.source, "init", "-q", "-b", "main")
        git(self.folder, "init", "-q", "--bare", "-b", "main", str(self.origin))
        self.publish("the tree under test")

    def publish(self, message: str) -> str:
        """Commit what is in `source` and push it; the commit."""
        git(self.source, "add", "-A")
        git(self.source, "commit", "-qm", message)
        git(self.source, "push", "-q", str(self.origin), "HEAD:refs/heads/main")
        return git(self.source, "rev-parse", "HEAD").strip()

    def add_clone(self, name: str) -> Path:
        """A clone of the origin, declared a worker's own."""
        clone = self.folder / name
        git(self.folder, "clone", "-q", str(self.origin), str(clone))
        (clone / ".prunelab").mkdir()
        (clone / ".prunelab" / "worker").touch()
        return clone

    def start(self, *command: str, folder: Path | None = None, **more: str) -> subprocess.Popen:
        """A server in the background. It must not inherit an ignored SIGINT, or SIGTERM will not end it."""
        with self.log.open("ab") as log:
            one = subprocess.Popen(
                command,
                cwd=folder or self.clone,
                env={**self.environment, **more},
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.started.append(one)
        return one

    def start_server(self) -> None:
        """A Prefect server with the work pools, deployments and automations of the tree."""
        prefect = [sys.executable, "-m", "prefect"]
        self.start(*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.wait(lambda: self.client().api_healthcheck() is None, 180, "the server does not answer")
        for pool in ("gpu", "cpu"):
            self.prefect("work-pool", "create", pool, "--type", "process")
        self.prefect("deploy", "--all")
        self.prefect("automation", "create", "--from-file", "automations.yaml")

    def start_worker(self, pool: str, folder: Path | None = None, *words: str, **more: str) -> subprocess.Popen:
        """A worker of `pool` in a clone; words: further options of its command."""
        command = ["worker", "start", "--pool", pool, "--type", "process", "--limit", "1", *words]
        return self.start(sys.executable, "-m", "prefect", *command, folder=folder, **more)

    def prefect(self, *words: str) -> None:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        done = subprocess.run(command, cwd=self.clone, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def client(self):
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.environment["PREFECT_API_URL"])

    def run(self, deployment: str, **parameters):
        """A run of `study/study` or another deployment, started now."""
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters)

    def runs(self, deployment: str) -> list:
        """All runs of a deployment, the newest first."""
        from prefect.client.schemas import filters

        with self.client() as client:
            return client.read_flow_runs(
                deployment_filter=filters.DeploymentFilter(name=filters.DeploymentFilterName(any_=[deployment])),
                sort="EXPECTED_START_TIME_DESC",
            )

    def lines(self, run) -> list[str]:
        """The log of a run."""
        from prefect.client.schemas import filters

        found, wanted = [], filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[run.id]))
        with self.client() as client:
            while page := client.read_logs(wanted, limit=200, offset=len(found)):
                found += page
        return [line.message for line in found]

    def ended(self, run, seconds: float):
        """The run once it has ended."""

        def over():
            with self.client() as client:
                now = client.read_flow_run(run.id)
            return now if now.state.is_final() else None

        return self.wait(over, seconds, f"the run {run.name} did not end")

    def wait(self, condition, seconds: float, what: str):
        """What `condition` returns as soon as that is true; the log when it never is."""
        deadline = time.monotonic() + seconds
        while not (found := self._tried(condition)):
            assert time.monotonic() < deadline, f"{what} after {seconds} s:\n{self.log.read_text()[-5000:]}"
            assert all(one.poll() is None for one in self.started), self.log.read_text()[-5000:]
            time.sleep(0.5)
        return found

    @staticmethod
    def _tried(condition):
        import httpx

        with contextlib.suppress(httpx.TransportError):  # a server that begins, or is busy
            return condition()

    def close(self) -> None:
        for one in reversed(self.started):
            tree = [one, *psutil.Process(one.pid).children(recursive=True)] if one.poll() is None else [one]
            one.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(20)
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
