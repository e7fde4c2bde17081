"""A study shared out to two workers by a coordinator, on a toy pipeline: real server, real workers, clones apart."""

import psutil
import pytest

from tests.helpers import toy
from tests.helpers.workshop import Workshop, git

pytestmark = pytest.mark.services

SMALL = {
    "seeds": ["s1", "s2"],
    "prune": {"methods": ["random", "magnitude"], "rates": [50, 80], "further": []},
    "efficiency": {"device": "bench"},
}
VARIANTS = [
    f"{method}-{rate}-{seed}" for method in ("random", "magnitude") for rate in (50, 80) for seed in ("s1", "s2")
]
MEASURED = [f"efficiency@magnitude-{rate}-{seed}" for rate in (50, 80) for seed in ("s1", "s2")]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    place = Workshop(tmp_path_factory.mktemp("workshop"))
    place.remote = place.folder / "remote"
    place.desk, place.bench, place.other = place.clone, place.add_clone("bench"), place.add_clone("other")
    try:
        publish(place)
        place.start_server()
        place.start_worker("cpu", place.desk, DNNL_TEST="desk")  # a variable that makes it another machine
        place.prefect("work-queue", "create", "bench", "--pool", "gpu")
        queues = ("--work-queue", "default", "--work-queue", "bench")
        place.start_worker("gpu", place.bench, *queues, PRUNELAB_DEVICE="bench", DNNL_TEST="bench")
        place.start_worker("gpu", place.other, "--work-queue", "default", DNNL_TEST="other")
        yield place
    finally:
        place.close()


def publish(place: Workshop) -> None:
    """The toy with a remote that every clone shares, instead of the pipeline."""
    for name, text in (("stage.sh", toy.STAGE), ("table.csv", toy.TABLE), ("dvc.yaml", toy.SEEDED)):
        (place.source / name).write_text(text)
    config = place.source / ".dvc" / "config"
    text = config.read_text().replace("[core]\n", "[core]\n    remote = shared\n")
    config.write_text(f"{text}['remote \"shared\"']\n    url = {place.remote}\n")
    with (place.source / ".gitignore").open("a") as file:
        file.write("/events.log\n/hold-*\n")
    place.publish("a toy")


def share_out(place: Workshop, **parameters):
    """A run of `study` with fan_out; the run of the coordinator that it is handed over to."""
    before = {run.id for run in place.runs("coordinator")}
    asked = place.run("study/study", fan_out=True, **parameters)
    assert place.ended(asked, 120).state_name == "HandedOver"
    return next(run for run in place.runs("coordinator") if run.id not in before)


def test_every_stage_runs_once_on_some_worker_and_the_coordinator_only_reports(workshop):
    coordinator = share_out(workshop, overrides=SMALL)
    ended = workshop.ended(coordinator, 400)
    assert ended.state_name == "Completed", "\n".join(workshop.lines(coordinator)[-40:])
    ran = {place.name: toy.started(place) for place in (workshop.desk, workshop.bench, workshop.other)}
    assert sorted(ran["clone"]) == ["fetch", "mirror", "report"]
    stages = [f"train@{seed}" for seed in ("s1", "s2")]
    stages += [f"{kind}@{variant}" for kind in ("prune", "quality") for variant in VARIANTS]
    assert sorted(ran["bench"] + ran["other"]) == sorted(stages + MEASURED)
    assert set(MEASURED) <= set(ran["bench"])  # on the machine that the study names, and nowhere else
    assert (workshop.desk / "models/s2/magnitude-80").read_text() == "prune@magnitude-80-s2\n"
    devices = [(place / "results/device.json").read_text() for place in (workshop.desk, workshop.bench, workshop.other)]
    assert devices[0] == devices[1] == devices[2] and '"DNNL_TEST": "bench"' in devices[0]
    assert {run.work_queue_name for run in workshop.runs("part")} == {"default", "bench"}


def test_a_second_time_nothing_runs_at_all_and_a_further_seed_only_its_own_stages(workshop):
    before = [toy.started(place) for place in (workshop.bench, workshop.other)]
    coordinator = share_out(workshop, overrides=SMALL)
    assert workshop.ended(coordinator, 200).state_name == "Completed"
    assert [toy.started(place) for place in (workshop.bench, workshop.other)] == before
    submitted = [line for line in workshop.lines(coordinator) if line.startswith("submitted ")]
    assert len(submitted) == 1 and "which machine is bench" in submitted[0]


def test_a_part_whose_worker_was_killed_is_done_by_another_one(workshop):
    (workshop.other / "hold-train@s3").touch()
    (workshop.other / "hold-train@s4").touch()
    coordinator = share_out(workshop, overrides=SMALL | {"seeds": ["s1", "s3", "s4"]}, targets=["train"])

    def held() -> list[psutil.Process]:
        found = [one for one in psutil.process_iter(["cmdline", "cwd"]) if one.info["cmdline"] == ["sleep", "3600"]]
        return [one for one in found if one.info["cwd"] == str(workshop.other)]

    workshop.wait(held, 200, "the other worker trains nothing")
    worker = workshop.started.pop()
    for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
        process.kill()
    worker.wait()
    ended = workshop.ended(coordinator, 400)
    assert ended.state_name == "Completed", "\n".join(workshop.lines(coordinator)[-40:])
    assert any("was lost (no sign of life" in line for line in workshop.lines(coordinator))
    assert {"train@s3", "train@s4"} <= set(toy.started(workshop.bench))
    assert not held()


def test_a_part_that_fails_ends_the_study_with_what_it_said(workshop):
    (workshop.bench / "fail-train@s9").touch()
    coordinator = share_out(workshop, overrides=SMALL | {"seeds": ["s1", "s9"]})
    ended = workshop.ended(coordinator, 300)
    assert ended.state_name == "Failed" and "broken on purpose" in ended.state.message
    assert git(workshop.desk, "rev-parse", "HEAD") == git(workshop.source, "rev-parse", "HEAD")
