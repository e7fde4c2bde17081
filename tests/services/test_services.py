"""Two workers and a coordinator with a Prefect server, an S3 server that checks keys, MLflow on PostgreSQL and S3.

`make test-services` installs what these need and runs them; elsewhere they say what is lacking and are left out.
"""

import contextlib
import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers import browser, forks, services, toy
from tests.helpers.workshop import Workshop, git

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(services.lacking() is not None, reason=f"{services.lacking()} is not installed"),
]

# Two seeds of the smoke study, with fewer rows; one thread, because the last digits of a training hang on their number.
OVERRIDES = {
    "seeds": ["s1", "s2"],
    "train": {"threads": 1},
    "prune": {"further": ["dense-average"]},
    "efficiency": {"device": "bench"},
}


class Place(Workshop):
    """The workshop with all servers; every clone has the DVC remote on S3."""

    def __init__(self, folder):
        self.storage, self.postgres = services.Storage(folder), services.Postgres()
        self.mlflow = services.MLflow(folder, self.postgres, self.storage)
        super().__init__(folder, **services.keys(), MLFLOW_TRACKING_URI=self.mlflow.address)
        self.desk, self.bench, self.other = self.clone, self.add_clone("bench"), self.add_clone("other")

    def _publish_tree(self) -> None:
        super()._publish_tree()
        config = self.source / ".dvc" / "config"
        remote = f"['remote \"shared\"']\n    url = s3://{services.BUCKET}/prunelab\n"
        remote += f"    endpointurl = {self.storage.address}\n"
        config.write_text(config.read_text().replace("[core]\n", "[core]\n    remote = shared\n") + remote)
        self.publish("a remote")

    def begin(self) -> None:
        for one in (self.storage, self.postgres, self.mlflow):
            one.start()
        self.start_server()
        self.start_worker("cpu", self.desk, DNNL_TEST="desk")  # a variable that makes it another machine
        self.prefect("work-queue", "create", "bench", "--pool", "gpu")
        self.workers = {folder: self.work(folder) for folder in (self.bench, self.other)}

    def work(self, folder: Path) -> subprocess.Popen:
        """A worker in one of the two clones that do parts, of which `bench` measures."""
        queues = ["--work-queue", "default"]
        if folder == self.other:
            return self.start_worker("gpu", folder, *queues, DNNL_TEST="other")
        queues += ["--work-queue", "bench"]
        return self.start_worker("gpu", folder, *queues, PRUNELAB_DEVICE="bench", DNNL_TEST="bench")

    @contextlib.contextmanager
    def without_the_worker_at(self, stage: str):
        """Kill -9 the worker that runs a stage of this kind, and all that it started; within, its clone has none."""

        def busy() -> Path | None:
            for one in psutil.process_iter(["cmdline", "cwd"]):
                if f"stages.{stage}" in (one.info["cmdline"] or ()):
                    return next((place for place in self.workers if one.info["cwd"].startswith(str(place))), None)
            return None

        folder = self.wait(busy, 300, f"no worker runs {stage}")
        worker = self.workers[folder]
        self.started.remove(worker)
        for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        worker.wait()
        try:
            yield
        finally:
            self.workers[folder] = self.work(folder)

    def said(self, words: str) -> list[str]:
        """The lines of parts that hold `words`."""
        return [line for run in self.runs("part") for line in self.lines(run) if words in line]

    def share_out(self, **parameters):
        """A run of `study` with fan_out; the run of the coordinator that it is handed over to."""
        before = {run.id for run in self.runs("coordinator")}
        assert self.ended(self.run("study/study", fan_out=True, **parameters), 120).state_name == "HandedOver"
        return next(run for run in self.runs("coordinator") if run.id not in before)

    def close(self) -> None:
        super().close()
        for one in (self.mlflow, self.storage):
            one.stop()
        self.postgres.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = Place(tmp_path_factory.mktemp("place"))
    try:
        found.begin()
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def shared_out(place):
    """The lines of a coordinator that has shared out two seeds of the smoke study."""
    run = place.share_out(study="smoke", overrides=OVERRIDES)
    ended = place.ended(run, 900)
    lines = place.lines(run)
    assert ended.state_name == "Completed", "\n".join(lines[-60:])
    return lines


def rows(folder) -> list[dict]:
    with (folder / "report" / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def flat(tree: dict, prefix: str = "") -> set[str]:
    """The names of all values in nested sections, joined by underlines, as results.csv has them."""
    found = set()
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}_") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def test_the_coordinator_ran_nothing_of_the_workers_although_every_clone_is_another_machine(place, shared_out):
    ran = [
        line.removeprefix("Running stage '").removesuffix("':") for line in shared_out if line[:13] == "Running stage"
    ]
    assert {name.partition("@")[0] for name in ran} == {
        "device", "inputs", "fetch", "probes", "recommend", "export", "report", "mirror",
    }  # fmt: skip
    names = [json.loads((one / "results/device.json").read_text())["id"] for one in (place.desk, place.other)]
    assert names == [json.loads((place.bench / "results/device.json").read_text())["id"]] * 2
    assert not (place.bench / "report").exists() and not (place.other / "report").exists()


@pytest.fixture(scope="module")
def apart(place):
    """A clone that no worker has, for a plain `dvc repro`."""
    return place.add_clone("apart")


@pytest.fixture(scope="module")
def plain(place, shared_out, apart):
    """A clone after a plain `dvc repro` of the same study, during all of which MLflow was down."""
    place.mlflow.stop()
    try:
        repro(place, apart, OVERRIDES)
    finally:
        place.mlflow.start()
    return apart


def test_the_report_is_that_of_a_plain_dvc_repro_but_for_what_was_measured(place, plain):
    one, other = rows(place.desk), rows(plain)
    assert [(row["variant"], row["seed"]) for row in one] == [(row["variant"], row["seed"]) for row in other]
    measured = flat(json.loads((plain / "results/s1/dense/efficiency.json").read_text()))
    differing = {key for row, twin in zip(one, other, strict=True) for key in row if row[key] != twin[key]}
    priced = {"gco2_per_million_tokens", "decode_verdict", "energy_provenance", "energy_estimated"}
    assert differing <= measured | priced, differing - measured - priced
    assert differing and all(row["loss"] for row in one)


def mirrored(place) -> list:
    """The runs of the study that MLflow has."""
    import mlflow

    client = mlflow.MlflowClient(place.mlflow.address)
    return client.search_runs([client.get_experiment_by_name("prunelab-smoke").experiment_id])


def test_mlflow_holds_each_run_once_and_what_it_missed_while_it_was_down_is_mirrored_afterwards(place, plain):
    import mlflow

    each = len(rows(place.desk)) + 1  # and one of the study
    runs = mirrored(place)
    assert len(runs) == len({run.info.run_name for run in runs}) == each
    assert {run.info.status for run in runs} == {"FINISHED"}
    client = mlflow.MlflowClient(place.mlflow.address)
    assert any(client.list_artifacts(run.info.run_id) for run in runs)  # through the server, which has the keys, to S3

    place.postgres.stop()
    place.postgres.start()
    for _ in range(2):
        command = [sys.executable, "-m", "prunelab", "mirror"]
        subprocess.run(command, cwd=plain, env=place.environment, check=True)
        assert len(mirrored(place)) == 2 * each


def test_no_secret_was_written_anywhere(place, shared_out):
    holding = [
        path
        for path in place.folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and services.SECRET.encode() in path.read_bytes()
        and path.parts[-3:] != ("tests", "helpers", "services.py")  # which makes it up
    ]
    assert holding == []


# ---- pages, as people open them ----

in_a_browser = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")


@in_a_browser
def test_mlflow_opens_with_the_columns_and_charts_that_tell_rows_apart(place, shared_out):
    link = json.loads((place.desk / ".prunelab/mirrored.json").read_text())["link"]
    charts = browser.text(link)
    assert "Every row" in charts and "Parallel Coordinates" in charts and "systematic-50" in charts
    table = browser.text(link.replace("CHART", "TABLE"))
    for column in ("loss", "rate", "method", "packed_bytes", "decode_ratio"):
        assert f">{column}<" in table, column


@in_a_browser
def test_prefect_shows_how_far_the_study_came_and_its_rows(place, shared_out):
    ui = place.environment["PREFECT_API_URL"].removesuffix("/api")
    assert "stages done" in browser.text(f"{ui}/artifacts/key/progress-smoke")
    with place.client() as client:
        progress = next(one for one in client.read_artifacts() if one.key == "progress-smoke")
        told = {artifact.key: str(artifact.data) for artifact in client.read_artifacts()}
    link = json.loads((place.desk / ".prunelab/mirrored.json").read_text())["link"]
    whole = re.match(r"study smoke: (\d+) of (\d+) stages done, ", progress.description)
    assert (
        whole and whole[1] == whole[2] and float(progress.data) == 100
    )  # of all machines, and not of the last to begin
    assert "systematic-50" in told["results-smoke"] and link in told["links-smoke"]


@in_a_browser
def test_the_report_opens_from_its_folder_and_loads_nothing_from_elsewhere(place, shared_out):
    page = browser.text((place.desk / "report/index.html").as_uri())
    assert "Smoke study" in page and "systematic-50" in page
    assert not re.search(r"(?:src|href)=.https?://[^\"']+\.(?:js|css|woff2?)", page)


# ---- workers that are lost, with the stages of a study ----

LONG = OVERRIDES | {
    "seeds": ["s1"],
    "train": {"threads": 1, "epochs": 60, "share_minutes": 0.02},
    "prune": {"methods": ["magnitude"], "rates": [50, 60, 70, 80], "further": []},
}


def repro(place, folder, overrides: dict, *targets: str) -> None:
    """A plain `dvc repro` of the smoke study in a clone."""
    environment = place.environment | forks.environment() | {"PRUNELAB_DEVICE": "bench"}
    script = f"from flows import workspace; workspace.choose('smoke', {overrides!r})"
    for command in (["-c", script], ["-m", "dvc", "repro", "--quiet", *targets]):
        subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_training_whose_worker_was_killed_goes_on_elsewhere_from_the_checkpoint_that_was_shared(place, apart):
    run = place.share_out(study="smoke", overrides=LONG, targets=["train"])
    place.wait(lambda: place.said("shared checkpoints/"), 300, "no checkpoint was shared")
    with place.without_the_worker_at("train"):
        ended = place.ended(run, 500)
    assert ended.state_name == "Completed", "\n".join(place.lines(run)[-60:])
    assert any("was lost (no sign of life" in line for line in place.lines(run))
    assert place.said("another worker left checkpoints/") and place.said("continuing from checkpoints/")
    repro(place, apart, LONG, "train@s1")
    name = "models/s1/dense/model.safetensors"
    assert (place.desk / name).read_bytes() == (apart / name).read_bytes()


def test_variants_whose_worker_was_killed_while_it_pruned_are_made_by_another(place, apart):
    run = place.share_out(study="smoke", overrides=LONG, targets=["prune"])
    with place.without_the_worker_at("prune"):
        ended = place.ended(run, 500)
    assert ended.state_name == "Completed", "\n".join(place.lines(run)[-60:])
    assert any("was lost (no sign of life" in line for line in place.lines(run))
    repro(place, apart, LONG, "prune")
    for variant in ("magnitude-50", "magnitude-60", "magnitude-70", "magnitude-80"):
        found = files(place.desk / "models/s1" / variant)
        assert "packed-00001.safetensors" in found and found == files(apart / "models/s1" / variant), variant


# ---- faults, with stages that take no time ----


@pytest.fixture(scope="module")
def toys(place):
    """From here on the toy pipeline instead of the study's."""
    for name, text in (("stage.sh", toy.STAGE), ("table.csv", toy.TABLE), ("dvc.yaml", toy.SEEDED)):
        (place.source / name).write_text(text)
    with (place.source / ".gitignore").open("a") as file:
        file.write("/events.log\n/fail-*\n")
    place.publish("a toy")
    few = {"methods": ["random", "magnitude"], "rates": [50, 80], "further": []}
    return {"seeds": ["s1", "s2"], "prune": few, "efficiency": {"device": "bench"}}


def test_a_study_gets_over_twenty_seconds_without_its_storage(place, toys):
    run = place.share_out(overrides=toys)
    place.wait(lambda: toy.started(place.bench) or toy.started(place.other), 200, "no worker has begun")
    place.storage.stop()
    time.sleep(20)
    place.storage.start()
    ended = place.ended(run, 400)
    assert ended.state_name == "Completed", "\n".join(place.lines(run)[-60:])
    ran = toy.started(place.bench) + toy.started(place.other)
    assert len(ran) == len(set(ran)) and "train@s2" in ran and "efficiency@magnitude-80-s2" in ran


def test_a_second_time_no_stage_runs_on_any_worker(place, toys):
    workers = (place.bench, place.other)
    before = [toy.started(one) for one in workers]
    run = place.share_out(overrides=toys)
    assert place.ended(run, 200).state_name == "Completed"
    assert [toy.started(one) for one in workers] == before
    submitted = [line for line in place.lines(run) if line.startswith("submitted ")]
    assert len(submitted) == 1 and "which machine is bench" in submitted[0]


def test_a_part_that_fails_ends_the_study_with_what_it_said_and_seeds_that_are_done_are_not_done_again(place, toys):
    for worker in (place.bench, place.other):
        (worker / "fail-train@s9").touch()
    run = place.share_out(overrides=toys | {"seeds": ["s1", "s9"]})
    ended = place.ended(run, 300)
    assert ended.state_name == "Failed" and "broken on purpose" in ended.state.message
    ran = toy.started(place.bench) + toy.started(place.other)
    assert ran.count("train@s1") == 1 and "train@s9" in ran
    assert git(place.desk, "rev-parse", "HEAD") == git(place.source, "rev-parse", "HEAD")


def test_a_wrong_key_ends_a_part_at_once_with_what_the_storage_said(place, toys):
    worker = place.workers[place.other]
    place.started.remove(worker)
    worker.terminate()
    worker.wait(30)
    wrong = services.keys("another-secret") | {"DNNL_TEST": "other"}
    place.start_worker("gpu", place.other, "--work-queue", "wrong", **wrong)
    with place.client() as client:
        part = client.read_deployment_by_name("part/part")
        asked = {"targets": ["train"], "overrides": toys}
        run = client.create_flow_run_from_deployment(part.id, parameters=asked, work_queue_name="wrong")
    ended = place.ended(run, 120)
    assert ended.state_name == "Failed" and "PermissionError" in ended.state.message
    assert "another-secret" not in ended.state.message
