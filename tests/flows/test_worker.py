"""prefect.yaml with a real Prefect server and a real process worker, both on loopback."""

import contextlib
import importlib
import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import yaml

from flows.study import study
from tests.helpers import toy

ROOT = Path(__file__).parents[2]


def deployments_file() -> dict:
    return yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))


def test_prefect_yaml_holds_only_keys_that_prefect_knows():
    from prefect.cli.deploy import _models as known
    from prefect.workers.process import ProcessVariables

    def check(section: dict, model, *further: str) -> None:
        fields = {field.alias or name for name, field in model.model_fields.items()}
        assert section.keys() <= fields | set(further), section.keys() - fields

    content = deployments_file()
    check(content, known.PrefectYamlModel, "definitions")  # `definitions` only holds YAML anchors
    assert [one["name"] for one in content["deployments"]] == ["study", "nightly"]
    for deployment in content["deployments"]:
        check(deployment, known.DeploymentConfig)
        check(deployment["work_pool"], known.WorkPoolConfig)
        check(deployment["work_pool"]["job_variables"], ProcessVariables)
        for schedule in deployment.get("schedules", []):
            known.RawScheduleConfig.model_validate(schedule)
        if isinstance(limit := deployment["concurrency_limit"], dict):
            check(limit, known.ConcurrencyLimitSpec)
        path, _, name = deployment["entrypoint"].partition(":")
        assert (ROOT / path).exists() and name == study.fn.__name__
        inspect.signature(study.fn).bind(**deployment["parameters"])


def test_the_pull_steps_exist_and_take_what_they_are_given():
    for step in deployments_file()["pull"]:
        ((name, inputs),) = step.items()
        module, _, function = name.rpartition(".")
        inputs.pop("id", None)
        inspect.signature(getattr(importlib.import_module(module), function)).bind(**inputs)


def test_every_run_has_a_working_directory_and_no_address_stands_in_the_file():
    content = deployments_file()
    assert content["pull"]
    assert all(one["work_pool"]["job_variables"]["working_dir"] for one in content["deployments"])
    assert "://" not in (ROOT / "prefect.yaml").read_text(encoding="utf-8")


# ---- from here on with servers ----


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Workshop:
    """An origin, a worker's clone of it, a Prefect server and a worker; commands run with its addresses."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.source, self.origin, self.clone = folder / "source", folder / "origin.git", folder / "clone"
        port = free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHONPATH"))},
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_WORKER_PREFETCH_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)
        self.started: list[subprocess.Popen] = []
        self.log = folder / "log.txt"
        self.port = port

    def publish(self, message: str) -> None:
        git(self.source, "add", "-A")
        git(self.source, "commit", "-qm", message)
        git(self.source, "push", "-q", str(self.origin), "HEAD:refs/heads/main")

    def start(self, *words: str) -> None:
        """A server or worker in the background. It must not inherit an ignored SIGINT, or SIGTERM will not end it."""
        with self.log.open("ab") as log:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "prefect", *words],
                    cwd=self.clone,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                )
            )

    def prefect(self, *words: str) -> None:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        done = subprocess.run(command, cwd=self.clone, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def client(self):
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.environment["PREFECT_API_URL"])

    def wait(self, condition, seconds: float, what: str):
        """What `condition` returns as soon as that is true; the log when it never is."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} after {seconds} s:\n{self.log.read_text()[-5000:]}"
            assert all(one.poll() is None for one in self.started), self.log.read_text()[-5000:]
            time.sleep(0.5)
        return found

    def finished(self, deployment: str, seconds: float):
        """The newest run of a deployment once it has ended, as (run, its log lines)."""
        from prefect.client.schemas import filters

        def ended():
            with self.client() as client:
                runs = client.read_flow_runs(
                    deployment_filter=filters.DeploymentFilter(name=filters.DeploymentFilterName(any_=[deployment])),
                    sort="EXPECTED_START_TIME_DESC",
                )
                runs = [run for run in runs if run.state.is_final()]
                return runs[0] if runs else None

        run = self.wait(ended, seconds, f"no run of {deployment} ended")
        with self.client() as client:
            lines = client.read_logs(
                filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[run.id])), limit=200
            )
        return run, [line.message for line in lines]

    def close(self) -> None:
        for one in reversed(self.started):
            tree = [one, *psutil.Process(one.pid).children(recursive=True)] if one.poll() is None else [one]
            one.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(20)
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    place = Workshop(tmp_path_factory.mktemp("workshop"))
    place.source.mkdir()
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():  # the tree as it is, committed or not
        if (ROOT / name).exists():
            (place.source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place.source / name)
    git(place.source, "init", "-q", "-b", "main")
    git(place.folder, "init", "-q", "--bare", "-b", "main", str(place.origin))
    place.publish("the tree under test")
    git(place.folder, "clone", "-q", str(place.origin), str(place.clone))
    (place.clone / ".prunelab").mkdir()
    (place.clone / ".prunelab" / "worker").touch()
    try:
        place.start("server", "start", "--host", "127.0.0.1", "--port", str(place.port))
        place.wait(lambda: place.client().api_healthcheck() is None, 180, "the server does not answer")
        place.prefect("work-pool", "create", "gpu", "--type", "process")
        place.prefect("deploy", "--all")
        place.start("worker", "start", "--pool", "gpu", "--type", "process", "--limit", "1")
        yield place
    finally:
        place.close()


def deployment(place: Workshop, name: str):
    with place.client() as client:
        return client.read_deployment_by_name(f"study/{name}")


@pytest.mark.slow
def test_a_scheduled_run_of_the_smoke_study_completes_on_the_worker(workshop):
    """The schedule itself must fire: two versions of libraries (see pyproject.toml) break exactly that, silently."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule

    soon = datetime.now(UTC) + timedelta(seconds=10)
    schedule = IntervalSchedule(interval=timedelta(days=1), anchor_date=soon)
    nightly = deployment(workshop, "nightly")
    assert [str(one.schedule.cron) for one in nightly.schedules] == ["0 2 * * *"]
    with workshop.client() as client:
        once = DeploymentScheduleCreate(schedule=schedule, active=True, parameters={"study": "smoke"})
        client.create_deployment_schedules(nightly.id, [once])
    run, lines = workshop.finished("nightly", 900)
    assert run.auto_scheduled and run.state_name == "Completed", "\n".join(lines[-40:])
    assert run.work_pool_name == "gpu"
    assert (workshop.clone / "report" / "results.csv").exists()
    assert (workshop.clone / "mlflow.db").exists()


@pytest.mark.slow
def test_a_run_takes_the_newest_commit_keeps_results_and_cancelling_it_leaves_no_process(workshop):
    hour = f"36{os.getpid()}"  # no other process here sleeps so long
    kept = workshop.clone / "results" / "kept"
    kept.parent.mkdir(exist_ok=True)
    kept.touch()
    (workshop.source / "stage.sh").write_text(toy.STAGE)
    (workshop.source / "table.csv").write_text(toy.TABLE)
    (workshop.source / "dvc.yaml").write_text(toy.PIPELINE.format(train_seconds=hour, prune_seconds=0))
    workshop.publish("a training of an hour")
    with workshop.client() as client:
        run = client.create_flow_run_from_deployment(deployment(workshop, "study").id)
    events = workshop.clone / "events.log"
    workshop.wait(lambda: events.exists() and "start train" in events.read_text(), 180, "the training did not start")
    assert git(workshop.clone, "rev-parse", "HEAD") == git(workshop.source, "rev-parse", "HEAD")
    assert kept.exists()

    def sleeping() -> list[int]:
        return [one.pid for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", hour]]

    assert sleeping()
    began = time.monotonic()
    workshop.prefect("flow-run", "cancel", str(run.id))
    workshop.wait(lambda: not sleeping(), 60, "the stage still runs")
    ended, _ = workshop.finished("study", 60)
    assert ended.state_name == "Cancelled"
    assert time.monotonic() - began < 60
    ours = (str(workshop.clone), "flows/process.py")
    left = [
        one.info
        for one in psutil.process_iter(["pid", "cmdline"])
        if all(word in " ".join(one.info["cmdline"] or ()) for word in ours)
    ]
    assert left == []


@pytest.mark.slow
def test_a_folder_that_is_not_declared_a_workers_own_is_not_reset(workshop):
    (workshop.clone / ".prunelab" / "worker").unlink()
    (workshop.clone / "params.yaml").write_text("precious\n")
    with workshop.client() as client:
        run = client.create_flow_run_from_deployment(deployment(workshop, "study").id)
        workshop.wait(lambda: client.read_flow_run(run.id).state.is_final(), 90, "the run did not end")
        assert client.read_flow_run(run.id).state_name in ("Failed", "Crashed")
    assert (workshop.clone / "params.yaml").read_text() == "precious\n"
